{{/* Values that cannot work together; every template that makes a workload includes this. */}}
{{- define "gnomon.checks" -}}
{{- if not (regexMatch "^[a-z]" .Release.Name) -}}
{{- fail "the name of the release begins with a digit, which no Service may: give it a name that begins with a letter" -}}
{{- end -}}
{{- if not .Values.existingSecret -}}
{{- fail "existingSecret is empty: make a Secret with JWT_SECRET_KEY, or mount a file of public keys (and with GNOMON_DATABASE_URL where the store is a server) and name it" -}}
{{- end -}}
{{- $volumes := list -}}
{{- range .Values.extraVolumes -}}{{- $volumes = append $volumes .name -}}{{- end -}}
{{- range .Values.extraVolumeMounts -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "extraVolumeMounts names the volume %s, which is not one of extraVolumes" .name) -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.store "duckdb" -}}
{{- if gt (int .Values.service.replicas) 1 -}}
{{- fail "service.replicas > 1 cannot work with store: duckdb, as one process owns the file; use postgres or clickhouse" -}}
{{- end -}}
{{- if gt (int .Values.service.workers) 1 -}}
{{- fail "service.workers > 1 cannot work with store: duckdb, as one process owns the file; use postgres or clickhouse" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail "autoscaling cannot work with store: duckdb, as one process owns the file; use postgres or clickhouse" -}}
{{- end -}}
{{- if .Values.worker.enabled -}}
{{- fail "worker.enabled cannot work with store: duckdb, as the service owns the file and does the background work itself" -}}
{{- end -}}
{{- if not .Values.persistence.enabled -}}
{{- fail "store: duckdb keeps everything on its volume: persistence.enabled must be true" -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.persistence.enabled) (not .Values.persistence.acceptLoss) -}}
{{- fail "without persistence a deleted pod loses acknowledged events that the store did not have yet; set persistence.acceptLoss: true if that may be" -}}
{{- end -}}
{{- if and (ne .Values.store "duckdb") (has (index .Values.settings "GNOMON_BACKUP_DAILY" | default "" | toString | lower) (list "1" "true" "on" "yes")) (not (hasKey .Values.settings "GNOMON_BACKUP_TARGET")) -}}
{{- fail "GNOMON_BACKUP_DAILY needs GNOMON_BACKUP_TARGET: any pod may make the backup, so it goes to a place that all of them reach" -}}
{{- end -}}
{{- if and .Values.exports.existingClaim (hasKey .Values.settings "GNOMON_EXPORT_DIR") -}}
{{- fail "GNOMON_EXPORT_DIR is /exports where exports.existingClaim is set: leave it out of settings" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.serviceMonitor.tokenSecret.name) (not (has (index .Values.settings "GNOMON_METRICS_PUBLIC" | default "" | toString | lower) (list "1" "true" "on" "yes"))) -}}
{{- fail "serviceMonitor needs serviceMonitor.tokenSecret.name (a token with the scope admin), or the setting GNOMON_METRICS_PUBLIC" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host is empty" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not (hasKey .Values.settings "GNOMON_TRUSTED_PROXIES")) (not (hasKey .Values.settings "GNOMON_CONFIG")) -}}
{{- fail "ingress.enabled needs settings.GNOMON_TRUSTED_PROXIES, the network of the controller's pods (10.0.0.0/8), or all callers together have the limit of calls of one address" -}}
{{- end -}}
{{- end -}}
