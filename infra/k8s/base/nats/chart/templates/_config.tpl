{{- /* Whether each server must have a zone of its own. */ -}}
{{- define "nats.zonesRequired" -}}
{{- if or (eq .Values.spread "required") (and (eq .Values.spread "auto") (ge (int .Values.orrery.zones) 3)) -}}true{{- end -}}
{{- end -}}

{{- define "nats.labels" -}}
app.kubernetes.io/name: nats
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- /* 80 % of a limit in MiB, for the Go runtime. */ -}}
{{- define "nats.gomemlimit" -}}
{{ div (mul (int .) 80) 100 }}MiB
{{- end -}}

{{- /*
nats.conf. A word after "$" is an environment variable of the pod. Secrets are in files that
are included, so neither the ConfigMap nor the environment holds any.
*/ -}}
{{- define "nats.config" -}}
{{- if not (has (int .Values.replicas) (list 1 3)) -}}
{{- fail "replicas must be 1 or 3: secret nats-routes of component.yaml has the addresses of three" -}}
{{- end -}}
{{- if lt (int .Values.resources.memoryMiB.limit) (div (mul (int .Values.jetstream.memoryStoreMiB) 3) 2) -}}
{{- fail "resources.memoryMiB.limit must be at least 1.5 × jetstream.memoryStoreMiB: a full memory store would have the server killed" -}}
{{- end -}}
server_name: $POD_NAME
{{- if include "nats.zonesRequired" . }}
server_tags: [$SERVER_TAG]
{{- end }}
listen: "0.0.0.0:4222"
# Monitoring. A network policy keeps it for probes and observability.
http: "0.0.0.0:8222"

lame_duck_duration: "{{ .Values.lameDuck.durationSeconds }}s"
lame_duck_grace_period: "{{ .Values.lameDuck.graceSeconds }}s"

jetstream {
  store_dir: "/data"
  max_memory_store: {{ mul (int .Values.jetstream.memoryStoreMiB) 1048576 }}
  max_file_store: {{ mul (int .Values.jetstream.fileStoreMiB) 1048576 }}
{{- if eq .Values.orrery.durability "full" }}
  # An acknowledged message is on the disk of a majority, not just in its page cache.
  sync_interval: always
{{- end }}
{{- if include "nats.zonesRequired" . }}
  # Replicas of a stream share no zone.
  unique_tag: "zone"
{{- end }}
}

cluster {
  name: {{ printf "%s-nats" .Values.orrery.environment | quote }}
  listen: "0.0.0.0:6222"
  include "../nats-routes/authorization.conf"
{{- if gt (int .Values.replicas) 1 }}
  include "../nats-routes/routes.conf"
{{- end }}
{{- if .Values.tls.enabled }}
  # Clients keep to the Service's name: addresses are in no certificate.
  no_advertise: true
  tls {
    cert_file: "/etc/nats-tls/tls.crt"
    key_file: "/etc/nats-tls/tls.key"
    ca_file: "/etc/nats-tls/ca.crt"
    verify: true
    timeout: 5
  }
{{- end }}
}
{{- if .Values.tls.enabled }}

tls {
  cert_file: "/etc/nats-tls/tls.crt"
  key_file: "/etc/nats-tls/tls.key"
  ca_file: "/etc/nats-tls/ca.crt"
  timeout: 5
}
{{- end }}

# Operator mode: who logs in shows a JWT that an account's key signed, and proves its own key. The
# operator and the accounts as they are when the environment is made; a newer version of an account, such
# as one with revocations, is pushed to the servers, which keep it on their volumes and tell each other.
include "../nats-accounts/accounts.conf"
resolver {
  type: full
  dir: "/data/accounts"
  # After which a server that was away has heard of what was revoked.
  interval: "2s"
}
{{- end -}}
