/** What a caller hands in and gets back. The field names are those of the event row on the wire. */

/** A JSON object: numbers that are not finite become null, what cannot be written as JSON drops the event. */
export type Properties = Record<string, unknown>;

/** Envelope fields beside `type` and `properties`. The service refuses any other name. */
export interface Fields {
  /** 1 to 200 characters, the identity of the event: the same id counts once. Default: a UUIDv7. */
  id?: string;
  /** When it happened, as ISO 8601 with an offset, or a Date. Default: now. */
  ts?: string | Date;
  user_id?: string | null;
  device_id?: string | null;
  session_id?: string | null;
  source?: string | null;
  application?: string | null;
  domain?: string | null;
  endpoint?: string | null;
  method?: string | null;
  status_code?: number | null;
  duration_ms?: number | null;
  bytes_sent?: number | null;
  bytes_received?: number | null;
  success?: boolean | null;
  error_code?: string | null;
}

/** An event as it travels. */
export interface AnalyticsEvent extends Fields {
  id: string;
  ts: string;
  type: string;
  properties?: Properties;
}

/** One event that will not be sent again. `status` is 0 when the service was not asked. */
export interface Dropped {
  /** The service's reason, or `queue-full`, `too-large`, `not-json`, `closed`, `http-<status>`. */
  code: string;
  status: number;
  event: AnalyticsEvent;
}

/** The part of Web Storage that the queue needs. */
export type KeyValueStore = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

export interface Options {
  /** Where the service is: scheme, host, and a path if it is mounted below one. Empty: the page's own origin. */
  url: string;
  /** A JWT, or a function that yields a fresh one. It is asked once more after a 401. */
  token?: string | (() => string | Promise<string>);
  /** A public write key, in place of a token. */
  key?: string;
  /** Written into every event. Default in a browser: `web`. */
  source?: string;
  application?: string;
  /** Keeps the stored data of two clients on one origin apart. Default: the write key, else the url. */
  name?: string;
  /** Events a request, at most 1,000. Default 50; this many also start a request at once. */
  batchSize?: number;
  /** Bytes a request. Default 60,000, which a browser still sends while a page closes. */
  batchBytes?: number;
  /** Milliseconds an event waits for company. Default 3,000. */
  flushInterval?: number;
  /** Events kept while the service cannot be reached. Default 1,000; newer ones are dropped and reported. */
  maxQueue?: number;
  /** Milliseconds until an unanswered request is given up and sent again. Default 30,000. */
  timeout?: number;
  /** First wait after a failure in milliseconds, doubled up to 60 times that. Default 1,000. */
  retryDelay?: number;
  /** Where the queue outlives the page. Default: localStorage; null: memory only. */
  storage?: KeyValueStore | null;
  /** `required`: nothing is stored or sent before `optIn()`. Default: `assumed`. */
  consent?: "assumed" | "required";
  /** Take Do Not Track and Global Privacy Control as a refusal. Default true. `optIn()` overrules them. */
  respectPrivacySignals?: boolean;
  /** Leave out crawlers that name themselves. Default true. */
  excludeBots?: boolean;
  /** Leave out browsers driven by automation. Default false. */
  excludeWebdriver?: boolean;
  /** Send a `page_view` now and at each change of the path. Default false. */
  trackPages?: boolean;
  /** Called for each event that is given up. */
  onDrop?: (dropped: Dropped) => void;
  /** Sends in place of the global fetch. */
  fetch?: typeof fetch;
}

/** Every function may be passed on alone, none throws. */
export interface Client {
  /** Queues an event; returns its id, or undefined when nothing was recorded. */
  track(type: string, properties?: Properties, fields?: Fields): string | undefined;
  /** Writes this user into the events from now on; null for nobody. */
  identify(userId: string | null): void;
  /** Queues a `page_view` of the page shown, in a browser with domain and path. */
  page(properties?: Properties, fields?: Fields): string | undefined;
  /** Sends a `page_view` now and at each change of the path, never two in a row for one. Returns what ends it. */
  trackPages(): () => void;
  /** True once all that was tracked before is confirmed or dropped, false when that took longer. */
  flush(timeoutMs?: number): Promise<boolean>;
  /** Flushes and stops. What is left stays stored for the next page. */
  close(timeoutMs?: number): Promise<boolean>;
  optIn(): void;
  /** Records nothing from now on and deletes what was stored. */
  optOut(): void;
  /** Whether events are recorded at present. */
  allowed(): boolean;
}
