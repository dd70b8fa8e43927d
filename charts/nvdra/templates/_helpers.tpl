{{/* Names, labels and texts that several templates need. */}}

{{- define "nvdra.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | regexFind "^.*[^-.]" }}
{{- end }}

{{- define "nvdra.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | regexFind "^.*[^-.]" }}
{{- else if contains (include "nvdra.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | regexFind "^.*[^-.]" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "nvdra.name" .) | trunc 63 | regexFind "^.*[^-.]" }}
{{- end }}
{{- end }}

{{- define "nvdra.controller" -}}
{{- printf "%s-controller" (include "nvdra.fullname" . | trunc 52 | regexFind "^.*[^-.]") }}
{{- end }}

{{- define "nvdra.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "nvdra.selectorLabels" -}}
{{- if .Values.selectorLabelsOverride }}
{{- toYaml .Values.selectorLabelsOverride }}
{{- else -}}
app.kubernetes.io/name: {{ include "nvdra.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
{{- end }}

{{- define "nvdra.labels" -}}
{{ include "nvdra.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
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

{{/* What the chart sets in the controller's environment. */}}
{{- define "nvdra.environment" -}}
POD_NAME NAMESPACE LOG_VERBOSITY LOG_FORMAT FEATURE_GATES IMEX_MODE IMEX_ISOLATION IMEX_PORTS IMEX_CERTIFICATES MAX_NODES_PER_IMEX_DOMAIN RACK_LABEL HTTP_ENDPOINT METRICS_PATH LEADER_ELECTION_ENABLED LEADER_ELECTION_LEASE_LOCK_NAMESPACE LEADER_ELECTION_LEASE_LOCK_NAME LEADER_ELECTION_LEASE_DURATION LEADER_ELECTION_RENEW_DEADLINE LEADER_ELECTION_RETRY_PERIOD
{{- end }}

{{- define "nvdra.featureGates" -}}
{{- range $name := keys .Values.featureGates | sortAlpha }}{{ $name }}={{ index $.Values.featureGates $name }},{{ end }}
{{- end }}

{{/* The port of health and metrics; empty without an endpoint. */}}
{{- define "nvdra.httpPort" -}}
{{- .Values.controller.metrics.httpEndpoint | splitList ":" | last }}
{{- end }}

{{/* A duration such as 1.5s in milliseconds. */}}
{{- define "nvdra.milliseconds" -}}
{{- if hasSuffix "ms" . }}{{ trimSuffix "ms" . }}
{{- else if hasSuffix "s" . }}{{ mulf (trimSuffix "s" . | float64) 1000.0 }}
{{- else }}{{ mulf (trimSuffix "m" . | float64) 60000.0 }}
{{- end }}
{{- end }}

{{/*
The device classes of a file, less those that are in the cluster and not of this release, such as one that was applied by
hand: Helm would refuse the whole installation because of them. (file, root)
*/}}
{{- define "nvdra.deviceClasses" -}}
{{- $release := .root.Release }}
{{- range $text := splitList "\n---\n" (.root.Files.Get .file) }}
{{- $name := ($text | fromYaml).metadata.name }}
{{- $found := lookup "resource.k8s.io/v1" "DeviceClass" "" $name | default dict }}
{{- $owner := dig "metadata" "annotations" dict $found | default dict }}
{{- $isOurs := and (eq (get $owner "meta.helm.sh/release-name") $release.Name) (eq (get $owner "meta.helm.sh/release-namespace") $release.Namespace) }}
{{- if or (not $found) $isOurs }}
---
{{ $text }}
{{- end }}
{{- end }}
{{- end }}

{{- define "nvdra.celStrings" -}}
{{- range $index, $text := . }}{{ if $index }}, {{ end }}'{{ $text }}'{{ end }}
{{- end }}

{{- define "nvdra.caSecret" -}}nvdra-imex-ca{{- end }}
