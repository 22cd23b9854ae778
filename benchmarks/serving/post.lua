-- wrk: post the file named by BODY; print one line of JSON with counts and latencies in microseconds.
local file = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
file:close()
local statuses = {}
function done(summary, latency, requests)
  io.write(string.format(
    "RESULT {\"requests\": %d, \"seconds\": %.6f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"refused\": %d, \"broken\": %d}\n",
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
