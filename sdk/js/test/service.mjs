// A service on loopback that keeps what it confirms and misbehaves on demand. It checks the wire format strictly.
import { createServer } from "node:http";

const ENVELOPE = new Set(
  (
    "id ts type user_id device_id session_id source application domain endpoint method status_code duration_ms " +
    "bytes_sent bytes_received success error_code properties"
  ).split(" "),
);
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

/** `mishap(request)` names what goes wrong with one request; see `ways` below. */
export async function openService({ mishap = () => "fine", most = 1000, judge = () => undefined } = {}) {
  const events = new Map();
  const requests = [];
  const server = createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => answer(request, response, Buffer.concat(parts).toString()));
    request.on("error", () => {});
  });

  function commit(batch) {
    const rejected = [];
    batch.forEach((event, index) => {
      const code = judge(event);
      if (code) rejected.push({ index, id: event.id, code });
      else events.set(event.id, { ...event, seen: (events.get(event.id)?.seen ?? 0) + 1 });
    });
    return {
      status: rejected.length === batch.length && batch.length ? 422 : 200,
      body: { ingested: batch.length - rejected.length, rejected },
    };
  }

  function answer(request, response, text) {
    let batch;
    try {
      batch = JSON.parse(text);
    } catch {
      response.writeHead(400, { "content-type": "application/problem+json" });
      return response.end('{"type": "bad-json"}');
    }
    const entry = {
      at: Date.now(),
      size: batch.length,
      bytes: text.length,
      ids: batch.map((e) => e.id),
      headers: request.headers,
      url: request.url,
    };
    requests.push(entry);
    check(request, batch);
    const say = (status, body, headers = {}) => {
      response.writeHead(status, {
        "content-type": status < 400 ? "application/json" : "application/problem+json",
        ...headers,
      });
      response.end(typeof body === "string" ? body : JSON.stringify(body ?? { type: `status-${status}`, status }));
    };
    if (batch.length > most) return say(413, { type: "too-large", status: 413 });
    const kind = (entry.mishap = mishap(entry, batch));
    const result = (status = 200) => (status < 400 ? commit(batch) : undefined);
    const ways = {
      fine: () => ((r) => say(r.status, r.body))(commit(batch)),
      unheard: () => request.socket.destroy(),
      committed_then_cut: () => (result(), request.socket.destroy()),
      half_answer: () => {
        const text = JSON.stringify(commit(batch).body);
        response.writeHead(200, { "content-type": "application/json", "content-length": text.length });
        response.write(text.slice(0, 5), () => request.socket.destroy());
      },
      late: () => setTimeout(ways.fine, 30),
      never: () => void commit(batch),
      portal: () => say(200, "<html>please log in</html>", { "content-type": "text/html" }),
      other_json: () => say(200, { ok: true }),
      busy: () => say(503, undefined, { "retry-after": "0" }),
      committed_then_503: () => (result(), say(503)),
      slow_down: () => say(429, undefined, { "retry-after": new Date(Date.now() - 1000).toUTCString() }),
      too_slow: () => say(408),
      broken: () => say(500, "<h1>oops</h1>"),
      full: () => say(507),
    };
    if (typeof kind === "object") return say(kind.status, kind.body, kind.headers);
    return ways[kind]();
  }

  const faults = [];
  function check(request, batch) {
    if (request.method !== "POST" || !request.url.startsWith("/api/analytics/ingest"))
      faults.push(`${request.method} ${request.url}`);
    if (request.headers["content-type"] !== "application/json") faults.push(`type ${request.headers["content-type"]}`);
    if (!Array.isArray(batch)) return faults.push("not an array");
    for (const event of batch) {
      for (const name of Object.keys(event)) if (!ENVELOPE.has(name)) faults.push(`field ${name}`);
      if (!TIME.test(event.ts)) faults.push(`ts ${event.ts}`);
    }
    if (new Set(batch.map((event) => event.id)).size !== batch.length) faults.push("an id twice in one batch");
  }

  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    events,
    requests,
    faults,
    set mishap(next) {
      mishap = next;
    },
    close: () => new Promise((done) => (server.close(done), server.closeAllConnections())),
  };
}

/** A small seeded generator (mulberry32): the same seed gives the same run. */
export function seeded(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return { next, below: (n) => Math.floor(next() * n), pick: (list) => list[Math.floor(next() * list.length)] };
}

/** Web Storage in memory, with the limit that real ones have. */
export function openStorage({ limit = Infinity } = {}) {
  const map = new Map();
  const used = () => [...map].reduce((sum, [key, value]) => sum + key.length + value.length, 0);
  return {
    map,
    get length() {
      return map.size;
    },
    key: (place) => [...map.keys()][place] ?? null,
    getItem: (key) => map.get(key) ?? null,
    removeItem: (key) => void map.delete(key),
    setItem(key, value) {
      if (used() - (map.get(key)?.length ?? -key.length) + String(value).length > limit)
        throw new Error("QuotaExceededError");
      map.set(key, String(value));
    },
  };
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
