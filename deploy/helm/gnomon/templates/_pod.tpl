{{/* What every pod of the chart has: nobody's rights, a file system that cannot be written, no account of the cluster. */}}
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
{{- end -}}

{{- define "gnomon.containerSecurity" -}}
image: {{ include "gnomon.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Settings and secrets. Call with (list . (list "KEY" ...)): the keys of the Secret that are needed. */}}
{{- define "gnomon.env" -}}
{{- $root := index . 0 -}}
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
  valueFrom: {secretKeyRef: {name: {{ $root.Values.existingSecret }}, key: {{ $key }}}}
{{- end }}
{{- end -}}

{{/* The secrets of a process that opens the store. */}}
{{- define "gnomon.storeKeys" -}}
{{- if ne .Values.store "duckdb" }}GNOMON_DATABASE_URL{{ end -}}
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
  {{- with .Values.service.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.service.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.service.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
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
        {{- include "gnomon.env" (list . (compact (list "JWT_SECRET_KEY" (include "gnomon.storeKeys" .)))) | nindent 8 }}
        {{- range $key := list "GNOMON_RATE_LIMIT_URL" "GNOMON_CACHE_URL" }}
        - name: {{ $key }}
          valueFrom: {secretKeyRef: {name: {{ $.Values.existingSecret }}, key: {{ $key }}, optional: true}}
        {{- end }}
        {{- if .Values.worker.enabled }}
        - name: CELERY_BROKER_URL
          valueFrom: {secretKeyRef: {name: {{ .Values.existingSecret }}, key: CELERY_BROKER_URL}}
        - name: CELERY_RESULT_BACKEND
          valueFrom: {secretKeyRef: {name: {{ .Values.existingSecret }}, key: CELERY_RESULT_BACKEND}}
        {{- end }}
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
  volumes:
    {{- include "gnomon.exportsVolume" . | nindent 4 }}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- if not .Values.persistence.enabled }}
    - name: data
      emptyDir: {sizeLimit: {{ .Values.persistence.size }}}
    {{- end }}
{{- end -}}
