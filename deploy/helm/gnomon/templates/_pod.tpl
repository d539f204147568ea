{{/* What every pod of the chart has: nobody's rights, a file system that cannot be written, no account of the cluster, and the
nodes that were chosen. */}}
{{- define "gnomon.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "gnomon.containerSecurity" -}}
image: {{ include "gnomon.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/*
Settings and secrets. Call with (list . (list "KEY" ...) (list "KEY" ...)): the keys of the Secret that are needed, and those that
may be there. With GNOMON_CONFIG any of them may stand in that file; with a file of public keys nobody needs JWT_SECRET_KEY.
*/}}
{{- define "gnomon.env" -}}
{{- $root := index . 0 -}}
{{- $file := hasKey $root.Values.settings "GNOMON_CONFIG" -}}
{{- $public := false -}}
{{- range list "JWT_PUBLIC_KEY_FILE" "GNOMON_JWT_PUBLIC_KEY_FILE" "JWT_JWKS_FILE" "GNOMON_JWT_JWKS_FILE" -}}
{{- $public = or $public (hasKey $root.Values.settings .) -}}
{{- end -}}
{{- range $name, $value := $root.Values.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- if $root.Values.exports.existingClaim }}
- name: GNOMON_EXPORT_DIR
  value: /exports
{{- end }}
{{- range $key := index . 1 }}
- name: {{ $key }}
  valueFrom: {secretKeyRef: {name: {{ $root.Values.existingSecret }}, key: {{ $key }}{{ if or $file (and $public (eq $key "JWT_SECRET_KEY")) }}, optional: true{{ end }}}}
{{- end }}
{{- range $key := index . 2 }}
- name: {{ $key }}
  valueFrom: {secretKeyRef: {name: {{ $root.Values.existingSecret }}, key: {{ $key }}, optional: true}}
{{- end }}
{{- end -}}

{{/* The secrets of a process that opens the store. */}}
{{- define "gnomon.storeKeys" -}}
{{- if ne .Values.store "duckdb" }}GNOMON_DATABASE_URL{{ end -}}
{{- end -}}

{{/* The secrets that a process which does the work may have: of services and workers alike. */}}
{{- define "gnomon.optionalKeys" -}}
GNOMON_RATE_LIMIT_URL GNOMON_CACHE_URL GNOMON_PSEUDONYM_KEYS GNOMON_ALERT_WEBHOOK GNOMON_ALERT_WEBHOOK_SECRET AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AZURE_STORAGE_ACCOUNT_KEY GOOGLE_SERVICE_ACCOUNT_KEY
{{- end -}}

{{/* What was mounted by hand: files of keys, settings, certificates. */}}
{{- define "gnomon.extraMounts" -}}
{{- with .Values.extraVolumeMounts -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "gnomon.extraVolumes" -}}
{{- with .Values.extraVolumes -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* The folder of exports, where services and workers share one. */}}
{{- define "gnomon.exportsMount" -}}
{{- if .Values.exports.existingClaim -}}
- {name: exports, mountPath: /exports}
{{- end -}}
{{- end -}}

{{- define "gnomon.exportsVolume" -}}
{{- with .Values.exports.existingClaim -}}
- {name: exports, persistentVolumeClaim: {claimName: {{ . }}}}
{{- end -}}
{{- end -}}

{{/* The pod of the service. */}}
{{- define "gnomon.servicePod" -}}
metadata:
  labels: {{- include "gnomon.labels" (list . "service") | nindent 4 }}
  {{- with .Values.service.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "gnomon.account" . }}
  {{- include "gnomon.podSecurity" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ .Values.service.terminationGracePeriodSeconds }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "gnomon.selector" (list . "service") | nindent 10 }}
  containers:
    - name: gnomon
      {{- include "gnomon.containerSecurity" . | nindent 6 }}
      args:
        - serve
        - --host=0.0.0.0
        - --port=8000
        {{- if gt (int .Values.service.workers) 1 }}
        - --workers={{ int .Values.service.workers }}
        {{- end }}
      env:
        {{- $broker := .Values.worker.enabled | ternary (list "CELERY_BROKER_URL" "CELERY_RESULT_BACKEND") list }}
        {{- $keys := concat (compact (list "JWT_SECRET_KEY" (include "gnomon.storeKeys" .))) $broker }}
        {{- include "gnomon.env" (list . $keys (splitList " " (include "gnomon.optionalKeys" .))) | nindent 8 }}
      ports:
        - {name: http, containerPort: 8000}
      # A start may replay a long journal: half an hour. Afterwards: not ready while no events can be taken; started
      # again only when nothing is answered any more, as a new process would not empty a full disk.
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 5
        failureThreshold: 360
      readinessProbe:
        httpGet: {path: /api/analytics/healthz, port: http}
        periodSeconds: 5
        timeoutSeconds: 4
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 15
        timeoutSeconds: 10
        failureThreshold: 8
      lifecycle:
        preStop: {exec: {command: [sleep, "5"]}}
      resources: {{- toYaml .Values.service.resources | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
        {{- include "gnomon.exportsMount" . | nindent 8 }}
        {{- include "gnomon.extraMounts" . | nindent 8 }}
  volumes:
    {{- include "gnomon.exportsVolume" . | nindent 4 }}
    {{- include "gnomon.extraVolumes" . | nindent 4 }}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- if not .Values.persistence.enabled }}
    - name: data
      emptyDir: {sizeLimit: {{ .Values.persistence.size }}}
    {{- end }}
{{- end -}}
