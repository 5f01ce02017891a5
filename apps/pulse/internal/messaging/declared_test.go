package messaging

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.yaml.in/yaml/v3"
)

// Where the component nack is, it keeps the streams as its objects say: as we make them ourselves.
func TestDeclaredStreams(t *testing.T) {
	data, err := os.ReadFile("../../../../infra/k8s/base/nack/streams.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got []jetstream.StreamConfig
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		raw := map[string]any{}
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		spec := raw["spec"].(map[string]any)
		if spec["preventDelete"] != true {
			t.Errorf("who deletes the object %v deletes its data", spec["name"])
		}
		c := jetstream.StreamConfig{}
		for key, v := range spec {
			text, _ := v.(string)
			number, _ := v.(int)
			switch key {
			case "name":
				c.Name = text
			case "description":
				c.Description = text
			case "subjects":
				for _, s := range v.([]any) {
					c.Subjects = append(c.Subjects, s.(string))
				}
			case "storage":
				c.Storage = map[string]jetstream.StorageType{"file": jetstream.FileStorage, "memory": jetstream.MemoryStorage}[text]
			case "retention":
				c.Retention = map[string]jetstream.RetentionPolicy{"workqueue": jetstream.WorkQueuePolicy, "interest": jetstream.InterestPolicy}[text]
			case "discard":
				c.Discard = map[string]jetstream.DiscardPolicy{"new": jetstream.DiscardNew, "old": jetstream.DiscardOld}[text]
			case "replicas":
				c.Replicas = number
			case "maxBytes":
				c.MaxBytes = int64(number)
			case "maxMsgSize":
				c.MaxMsgSize = int32(number)
			case "maxMsgsPerSubject":
				c.MaxMsgsPerSubject = int64(number)
			case "maxAge":
				c.MaxAge = duration(t, text)
			case "duplicateWindow":
				c.Duplicates = duration(t, text)
			case "allowRollup":
				c.AllowRollup = v.(bool)
			case "denyDelete":
				c.DenyDelete = v.(bool)
			case "preventDelete":
			default:
				t.Errorf("%s is compared with nothing", key)
			}
		}
		got = append(got, c)
	}
	want := Topology{Replicas: 3}.Streams()
	if len(got) != len(want) {
		t.Fatalf("%d streams are declared, and pulse has %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("streams.yaml says otherwise of %s:\npulse %+v\nnack  %+v", want[i].Name, want[i], got[i])
		}
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
