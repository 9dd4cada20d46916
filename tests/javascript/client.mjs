// Emits audit events with the JavaScript SDK: node client.mjs URL json|protobuf COUNT

import { SeverityNumber } from "@opentelemetry/api-logs";
import { OTLPLogExporter as JsonExporter } from "@opentelemetry/exporter-logs-otlp-http";
import { OTLPLogExporter as ProtobufExporter } from "@opentelemetry/exporter-logs-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchLogRecordProcessor, LoggerProvider } from "@opentelemetry/sdk-logs";

const [url, form, count] = process.argv.slice(2);
const Exporter = form === "json" ? JsonExporter : ProtobufExporter;
const failures = [];
const exporter = new Exporter({ url, compression: "gzip" });
const original = exporter.export.bind(exporter);
exporter.export = (records, done) =>
  original(records, (result) => {
    if (result.code !== 0) failures.push(String(result.error));
    done(result);
  });
const provider = new LoggerProvider({
  resource: resourceFromAttributes({ "service.name": "js-shop" }),
  processors: [new BatchLogRecordProcessor({ exporter, maxExportBatchSize: 50 })],
});
const logger = provider.getLogger("js.orders", "1.0");
for (let number = 0; number < Number(count); number += 1) {
  logger.emit({
    eventName: "order.deleted",
    body: `Order ${number} deleted`,
    severityNumber: SeverityNumber.INFO,
    severityText: "INFO",
    timestamp: [1_700_000_000, number],
    attributes: {
      "audit.record.id": `0192f0c4-0000-7000-8000-${number.toString(16).padStart(12, "0")}`,
      "audit.actor.id": "alice",
      "audit.actor.type": "user",
      "audit.action": "DELETE",
      "audit.outcome": "success",
      "otel_audit.host": "example.com",
      "otel_audit.custom.order.number": number,
      "otel_audit.custom.order.total": 99.5,
      "otel_audit.custom.order.lines": ["a", "b"],
      "otel_audit.custom.order.paid": true,
      "otel_audit.custom.order.note": form === "json" ? "half \ud800 of a pair" : "whole",
    },
  });
}
await provider.forceFlush();
await provider.shutdown();
if (failures.length > 0) {
  console.error(failures.join("\n"));
  process.exit(1);
}
