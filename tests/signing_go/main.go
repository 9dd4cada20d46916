// Command signing is the producers' side of the draft written a second time, in Go: on the Collector's own record
// classes and the JCS library that its signing processor uses, and from the rules in docs/integrity.md.
//
//	signing EdDSA|ES256|RS256|HMAC-SHA256 KEY
//
// It reads logs, one request a line: OTLP/JSON as the file exporter writes it, or base64 of protobuf. For each record it
// writes a line of JSON: the payload, its own signature of it, and whether the record's signature is one by the key.
package main

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/gowebpki/jcs"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// A key signs payloads, and checks signatures of them.
type key struct {
	sign     func(payload []byte) ([]byte, error)
	verifies func(payload, signature []byte) bool
}

type answer struct {
	ID        string `json:"id"`
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
	Verified  bool   `json:"verified"`
	Error     string `json:"error,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "signing:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: signing ALGORITHM KEY")
	}
	content, err := os.ReadFile(os.Args[2])
	if err != nil {
		return err
	}
	k, err := load(os.Args[1], content)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<28)
	for lines.Scan() {
		logs, err := read(lines.Bytes())
		if err != nil {
			return err
		}
		for _, record := range records(logs) {
			line, err := json.Marshal(k.answer(record))
			if err != nil {
				return err
			}
			fmt.Println(string(line))
		}
	}
	return lines.Err()
}

func read(line []byte) (plog.Logs, error) {
	if bytes.HasPrefix(line, []byte("{")) {
		return (&plog.JSONUnmarshaler{}).UnmarshalLogs(line)
	}
	content, err := base64.StdEncoding.DecodeString(string(line))
	if err != nil {
		return plog.Logs{}, err
	}
	return (&plog.ProtoUnmarshaler{}).UnmarshalLogs(content)
}

func records(logs plog.Logs) (found []plog.LogRecord) {
	for _, ofResource := range logs.ResourceLogs().All() {
		for _, ofScope := range ofResource.ScopeLogs().All() {
			for _, record := range ofScope.LogRecords().All() {
				found = append(found, record)
			}
		}
	}
	return found
}

func (k key) answer(record plog.LogRecord) (a answer) {
	if id, ok := record.Attributes().Get("audit.record.id"); ok {
		a.ID = id.Str()
	}
	var err error
	if a.Payload, err = payload(record); err == nil {
		a.Signature, err = k.sign(a.Payload)
	}
	if err != nil {
		a.Error = err.Error()
		return a
	}
	if value, ok := record.Attributes().Get("audit.integrity.value"); ok {
		signature, err := base64.StdEncoding.DecodeString(value.Str())
		a.Verified = err == nil && k.verifies(a.Payload, signature)
	}
	return a
}

func payload(record plog.LogRecord) ([]byte, error) {
	signed := map[string]any{}
	text := func(name, value string) {
		if value != "" && value != "0" {
			signed[name] = value
		}
	}
	if name := record.EventName(); name != "" {
		signed["event_name"] = name
	}
	text("timestamp", strconv.FormatInt(int64(record.Timestamp()), 10))
	text("observed_timestamp", strconv.FormatInt(int64(record.ObservedTimestamp()), 10))
	text("trace_id", record.TraceID().String())
	text("span_id", record.SpanID().String())
	if record.Body().Type() != pcommon.ValueTypeEmpty {
		signed["body"] = tagged(record.Body())
	}
	attributes := map[string]any{}
	for name, value := range record.Attributes().All() {
		if !strings.HasPrefix(name, "audit.integrity.") {
			attributes[name] = tagged(value)
		}
	}
	if len(attributes) > 0 {
		signed["attributes"] = attributes
	}
	plain, err := json.Marshal(signed)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(plain)
}

// tagged puts a scalar under the name of its type; lists and maps have none.
func tagged(value pcommon.Value) any {
	switch value.Type() {
	case pcommon.ValueTypeSlice:
		items := []any{}
		for _, item := range value.Slice().All() {
			items = append(items, tagged(item))
		}
		return items
	case pcommon.ValueTypeMap:
		members := map[string]any{}
		for name, item := range value.Map().All() {
			members[name] = tagged(item)
		}
		return members
	case pcommon.ValueTypeStr:
		return map[string]string{"stringValue": value.Str()}
	case pcommon.ValueTypeBool:
		return map[string]bool{"boolValue": value.Bool()}
	case pcommon.ValueTypeInt:
		return map[string]string{"intValue": strconv.FormatInt(value.Int(), 10)}
	case pcommon.ValueTypeDouble:
		return map[string]float64{"doubleValue": value.Double()}
	case pcommon.ValueTypeBytes:
		return map[string]string{"bytesValue": base64.StdEncoding.EncodeToString(value.Bytes().AsRaw())}
	}
	return nil
}

func load(algorithm string, content []byte) (key, error) {
	if algorithm == "HMAC-SHA256" {
		secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(content)))
		return ofSecret(secret), err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return key{}, fmt.Errorf("the key is no PEM")
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return key{}, err
	}
	switch private := private.(type) {
	case ed25519.PrivateKey:
		public := private.Public().(ed25519.PublicKey)
		return key{
			func(payload []byte) ([]byte, error) { return ed25519.Sign(private, payload), nil },
			func(payload, signature []byte) bool { return ed25519.Verify(public, payload, signature) },
		}, nil
	case *ecdsa.PrivateKey:
		return key{
			func(payload []byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, private, digest(payload)) },
			func(payload, signature []byte) bool {
				return ecdsa.VerifyASN1(&private.PublicKey, digest(payload), signature)
			},
		}, nil
	case *rsa.PrivateKey:
		return key{
			func(payload []byte) ([]byte, error) {
				return rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, digest(payload))
			},
			func(payload, signature []byte) bool {
				return rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, digest(payload), signature) == nil
			},
		}, nil
	}
	return key{}, fmt.Errorf("the key is a %T", private)
}

func ofSecret(secret []byte) key {
	mac := func(payload []byte) []byte {
		sum := hmac.New(sha256.New, secret)
		sum.Write(payload)
		return sum.Sum(nil)
	}
	return key{
		func(payload []byte) ([]byte, error) { return mac(payload), nil },
		func(payload, signature []byte) bool { return hmac.Equal(mac(payload), signature) },
	}
}

func digest(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return sum[:]
}
