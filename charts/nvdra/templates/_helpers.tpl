{{/* Names, labels and texts that several templates need. */}}

{{- define "nvdra.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "nvdra.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "nvdra.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "nvdra.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "nvdra.controller" -}}
{{- printf "%s-controller" (include "nvdra.fullname" . | trunc 52 | trimSuffix "-") }}
{{- end }}

{{- define "nvdra.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "nvdra.selectorLabels" -}}
{{- if .Values.selectorLabelsOverride }}
{{- toYaml .Values.selectorLabelsOverride }}
{{- else -}}
app.kubernetes.io/name: {{ include "nvdra.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end }}

{{- define "nvdra.labels" -}}
{{ include "nvdra.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "nvdra.controllerSelector" -}}
{{ include "nvdra.selectorLabels" . }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "nvdra.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "nvdra.controller" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name must be set when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "nvdra.image" -}}
{{- printf "%s:%s" .Values.image.repository (default (printf "v%s" .Chart.AppVersion) .Values.image.tag) }}
{{- end }}

{{- define "nvdra.featureGates" -}}
{{- range $name := keys .Values.featureGates | sortAlpha }}{{ $name }}={{ index $.Values.featureGates $name }},{{ end }}
{{- end }}

{{- define "nvdra.celStrings" -}}
{{- range $index, $text := . }}{{ if $index }}, {{ end }}'{{ $text }}'{{ end }}
{{- end }}

{{- define "nvdra.caSecret" -}}nvdra-imex-ca{{- end }}
