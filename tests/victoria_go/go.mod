// VictoriaLogs, a real log database that speaks OTLP, for tests/integration/test_collector_victorialogs.py and others.
module otel-audit.invalid/victoria

go 1.26.0

tool github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs

require github.com/VictoriaMetrics/VictoriaLogs v1.52.1
