// The kubelet's messages, coded by hand: five small ones need no generated code.
package main

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// rawCodec passes messages through as bytes; the gRPC wire format stays that of protobuf.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("cannot marshal %T", v)
	}
	return *b, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot unmarshal into %T", v)
	}
	*b = append([]byte(nil), data...)
	return nil
}

// claim is k8s.io.kubelet.pkg.apis.dra.v1.Claim; note that uid is field 2 and name field 3.
type claim struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

func appendString(b []byte, number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), s)
}

// claimsRequest encodes NodePrepareResourcesRequest and NodeUnprepareResourcesRequest, which are alike.
func claimsRequest(claims []claim) []byte {
	var out []byte
	for _, c := range claims {
		var b []byte
		b = appendString(b, 1, c.Namespace)
		b = appendString(b, 2, c.UID)
		b = appendString(b, 3, c.Name)
		out = protowire.AppendBytes(protowire.AppendTag(out, 1, protowire.BytesType), b)
	}
	return out
}

// registrationStatus encodes pluginregistration.RegistrationStatus of a plugin that was accepted.
func registrationStatus() []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
}

// eachField calls f for every length-delimited field of a message and skips all others.
func eachField(b []byte, f func(number protowire.Number, value []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(number, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// pluginInfo is pluginregistration.PluginInfo.
type pluginInfo struct {
	Kind     string
	Name     string
	Endpoint string
	Versions []string
}

func parsePluginInfo(b []byte) (pluginInfo, error) {
	var info pluginInfo
	err := eachField(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			info.Kind = string(value)
		case 2:
			info.Name = string(value)
		case 3:
			info.Endpoint = string(value)
		case 4:
			info.Versions = append(info.Versions, string(value))
		}
		return nil
	})
	return info, err
}

// answer is what a prepare or unprepare response says about one claim.
type answer struct {
	devices int
	cdiIDs  int
	err     string
}

// parseAnswers decodes the map of NodePrepareResourcesResponse or NodeUnprepareResourcesResponse: claim UID -> answer.
// The error of a claim is field 2 of the first and field 1 of the second.
func parseAnswers(b []byte, prepared bool) (map[string]answer, error) {
	errorField := protowire.Number(1)
	if prepared {
		errorField = 2
	}
	answers := map[string]answer{}
	err := eachField(b, func(_ protowire.Number, entry []byte) error {
		var uid string
		var a answer
		err := eachField(entry, func(number protowire.Number, value []byte) error {
			if number == 1 {
				uid = string(value)
				return nil
			}
			return a.parse(value, errorField)
		})
		answers[uid] = a
		return err
	})
	return answers, err
}

func (a *answer) parse(b []byte, errorField protowire.Number) error {
	return eachField(b, func(number protowire.Number, value []byte) error {
		if number == errorField {
			a.err = string(value)
			return nil
		}
		a.devices++
		return eachField(value, func(number protowire.Number, _ []byte) error {
			if number == 4 {
				a.cdiIDs++
			}
			return nil
		})
	})
}

// checkAnswers fails unless every claim has an answer without an error and, when prepared, with a CDI id.
func checkAnswers(claims []claim, answers map[string]answer, prepared bool) error {
	for _, c := range claims {
		a, found := answers[c.UID]
		switch {
		case !found:
			return fmt.Errorf("no answer for claim %s/%s", c.Namespace, c.Name)
		case a.err != "":
			return errors.New(a.err)
		case prepared && (a.devices == 0 || a.cdiIDs == 0):
			return fmt.Errorf("claim %s/%s: %d devices, %d CDI ids", c.Namespace, c.Name, a.devices, a.cdiIDs)
		}
	}
	return nil
}
