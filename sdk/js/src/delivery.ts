/**
 * Sends the queue: one request at a time, again until the service has answered for every event. Only an answer of the
 * service itself confirms; a proxy's 200 page does not.
 */
import type { Item, Queue } from "./queue.js";
import { attempt } from "./store.js";
import type { Options } from "./types.js";

/** What a browser lets a closing page have under way is 64 KiB; the rest is left to headers. */
export const KEEPALIVE_BYTES = 60_000;
const LONGEST_WAIT_MS = 3_600_000;
const SLOWEST = 6;

const written = (batch: Item[]): string => `[${batch.map((item) => item.body).join()}]`;
const size = (batch: Item[]): number => batch.reduce((sum, item) => sum + item.bytes, 2);

interface Answer {
  ingested?: number;
  rejected?: { index: number; code: string }[];
  type?: string;
}

export function openDelivery(options: Options, queue: Queue, allowed: () => boolean, drop: Drop) {
  const { url = "", token, key, timeout = 30_000, retryDelay = 1_000, flushInterval = 3_000 } = options;
  const endpoint = `${url.replace(/\/+$/, "")}/api/analytics/ingest`;
  let most = Math.min(options.batchSize ?? 50, 1_000);
  let limit = most;
  let failures = 0;
  let refused = false;
  let asked = 0;
  let underway = 0;
  let running = false;
  let thawed = false;
  let ended = false;
  let timer: Timer;
  let pause: Timer;
  const waiting = new Set<() => void>();
  const stops = new Set<AbortController>();

  /** Sends until nothing is left or a failure asks for a pause. */
  async function run(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    if (!allowed()) queue.clear();
    if (running) return;
    running = true;
    let batch: Item[];
    while (!pause && !ended && allowed() && (batch = queue.take(limit, options.batchBytes ?? KEEPALIVE_BYTES)).length) {
      await post(batch);
    }
    running = false;
  }

  async function post(batch: Item[], address = ""): Promise<void> {
    const bytes = size(batch);
    // All scripts of a page share what may be kept alive: after a failure, go without.
    const keepalive = !failures && underway + bytes <= KEEPALIVE_BYTES;
    const stop = new AbortController();
    stops.add(stop);
    const late = setTimeout(() => stop.abort(), timeout);
    let status = 0;
    let answer: Answer | undefined;
    let after: string | null = null;
    batch.forEach((item) => (item.busy = true));
    if (keepalive) underway += bytes;
    try {
      const bearer = address ? "" : typeof token === "function" ? await token() : (token ?? key);
      const response = await (options.fetch ?? fetch)(address || endpoint, {
        method: "POST",
        headers: address
          ? {}
          : { "Content-Type": "application/json", ...(bearer && { Authorization: `Bearer ${bearer}` }) },
        body: written(batch),
        keepalive,
        credentials: "omit",
        signal: stop.signal,
      });
      status = response.status;
      after = response.headers.get("Retry-After");
      answer = (await response.json()) as Answer;
    } catch {
      // No answer, or one that is not JSON: the status decides.
    }
    clearTimeout(late);
    stops.delete(stop);
    if (keepalive) underway -= bytes;
    batch.forEach((item) => (item.busy = false));
    // An answer of a strange form must not end the loop, nor turn it into a hot one.
    attempt(() => (settle(batch, status, answer, after), true)) ?? rest(after);
    waiting.forEach((check) => check());
  }

  function settle(batch: Item[], status: number, answer: Answer | undefined, after: string | null): void {
    const rejected = Array.isArray(answer?.rejected) ? answer.rejected : [];
    if (status < 400 ? typeof answer?.ingested !== "number" : again(status)) return rest(after);
    failures = 0;
    refused = false;
    if ([400, 413, 422].includes(status) && !rejected.length && batch.length > 1) {
      // Too much, or one event spoils the others: halve until it stands alone.
      limit = batch.length >> 1;
      if (status === 413) most = limit;
      return;
    }
    limit = most;
    batch.forEach((item, place) => {
      const refusal = rejected.find(({ index }) => index === place);
      if (refusal || status >= 400) drop(item, refusal?.code ?? answer?.type ?? `http-${status}`, status);
    });
    queue.remove(batch);
  }

  function again(status: number): boolean {
    // A token may have run out between two events; a function is asked for another one, once.
    if (status === 401 && typeof token === "function" && !refused) return (refused = true);
    return status === 408 || status === 429 || status >= 500;
  }

  function rest(after: string | null): void {
    // Nobody failed: again at once.
    if (thawed) return void (thawed = false);
    const seconds = Number(after);
    asked = after ? (seconds >= 0 ? seconds * 1_000 : Date.parse(after) - Date.now() || 0) : 0;
    const backoff = retryDelay * 2 ** Math.min(failures++, SLOWEST);
    // Jitter, so that clients that failed together do not come back together.
    const wait = Math.max(asked, backoff / 2) + (Math.random() * backoff) / 2;
    clearTimeout(pause);
    pause = setTimeout(wake, Math.min(wait, LONGEST_WAIT_MS));
    // In Node: a service that is down does not keep a finished program alive.
    attempt(() => (pause as unknown as { unref(): void }).unref());
  }

  function wake(): void {
    clearTimeout(pause);
    pause = undefined;
    void run();
  }

  return {
    /** Sends soon, or now when a batch is full. */
    plan(): void {
      if (queue.all().length >= limit) void run();
      else timer ??= setTimeout(run, flushInterval);
    },
    run,
    /** Back from the back/forward cache: requests that were under way may never be settled. */
    thaw(): void {
      thawed = stops.size > 0;
      stops.forEach((stop) => stop.abort());
    },
    /** The network is back: no reason to wait longer than the service asked for. */
    online: () => asked > 0 || wake(),
    /** One attempt for what a closing page may still send. */
    hide(): void {
      const batch = queue.take(1_000, KEEPALIVE_BYTES - underway - 2);
      if (!batch.length || pause || !allowed() || underway + size(batch) > KEEPALIVE_BYTES) return;
      // With the key in the address and text for a body, a browser needs not ask the service first (CORS), for which
      // a closing page has no time. One without `keepalive` cuts requests off; a beacon has no answer, so all stays
      // queued.
      const address = !token && key && `${endpoint}?key=${encodeURIComponent(key)}`;
      if (!address || "keepalive" in Request.prototype) void post(batch, address || "");
      else navigator.sendBeacon(address, written(batch));
    },
    async flush(milliseconds: number): Promise<boolean> {
      const mine = queue.all().slice();
      void run();
      return new Promise((resolve) => {
        const check = (): void => {
          if (mine.every((item) => item.gone)) finish(true);
        };
        const finish = (done: boolean): void => {
          waiting.delete(check);
          clearTimeout(end);
          resolve(done);
        };
        const end = setTimeout(() => finish(false), milliseconds);
        waiting.add(check);
        check();
      });
    },
    end(): void {
      ended = true;
      clearTimeout(timer);
      clearTimeout(pause);
    },
  };
}

type Drop = (item: Item, code: string, status: number) => void;
type Timer = ReturnType<typeof setTimeout> | undefined;
