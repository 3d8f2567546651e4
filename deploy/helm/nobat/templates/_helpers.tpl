{{- define "nobat.name" -}}
{{- if .Values.nameOverride }}{{ .Values.nameOverride }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name }}{{ end }}
{{- end }}

{{/* Labels of an object: (dict "root" $ "component" NAME). */}}
{{- define "nobat.labels" -}}
{{ include "nobat.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "nobat.selector" -}}
app.kubernetes.io/name: nobat
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "nobat.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* "true" where the chart starts Redis itself. */}}
{{- define "nobat.ownRedis" -}}
{{- if not (or .Values.redis.url .Values.redis.existingSecret) }}true{{ end }}
{{- end }}

{{/* The secret that holds the URL of Redis. */}}
{{- define "nobat.redisSecret" -}}
{{ .Values.redis.existingSecret | default (printf "%s-redis" (include "nobat.name" .)) }}
{{- end }}

{{- define "nobat.redisUrl" -}}
{{- if .Values.redis.url }}{{ .Values.redis.url }}
{{- else }}redis://{{ with .Values.redis.password }}:{{ . }}@{{ end }}{{ include "nobat.name" . }}-redis:6379{{ end }}
{{- end }}

{{/* What every pod of nobat has in its spec. */}}
{{- define "nobat.pod" -}}
serviceAccountName: {{ include "nobat.name" . }}
automountServiceAccountToken: false
# A variable such as NOBAT_PORT, which Kubernetes makes of a service's name, would be read as a setting.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "nobat.container" -}}
image: {{ include "nobat.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "nobat.env" -}}
- { name: NOBAT_CONFIG, value: /etc/nobat/nobat.toml }
- name: NOBAT_REDIS
  valueFrom: { secretKeyRef: { name: {{ include "nobat.redisSecret" . }}, key: url } }
{{- end }}

{{- define "nobat.mounts" -}}
- { name: config, mountPath: /etc/nobat, readOnly: true }
- { name: tmp, mountPath: /tmp }
- { name: data, mountPath: /var/lib/nobat }
{{- end }}

{{- define "nobat.volumes" -}}
- name: config
  configMap: { name: {{ include "nobat.name" . }} }
- { name: tmp, emptyDir: {} }
- { name: data, emptyDir: {} }
{{- end }}

{{/* Restarts pods when what they read at their start has changed. */}}
{{- define "nobat.checksum" -}}
checksum/config: {{ printf "%s%s" .Values.config (include "nobat.redisUrl" .) | sha256sum }}
{{- end }}

{{/* Where pods are put: (dict of nodeSelector, tolerations, affinity). */}}
{{- define "nobat.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- end }}
