// Prometheus and its promtool, for tests/integration/test_grafana_prometheus.py.
module otel-audit.invalid/prometheus

go 1.26.0

tool (
	github.com/prometheus/prometheus/cmd/prometheus
	github.com/prometheus/prometheus/cmd/promtool
)

require github.com/prometheus/prometheus v0.312.0
