/**
 * The client: builds events, asks whether they may be recorded, queues them, and listens to the page's life. It never
 * throws into the page.
 */
import { openDelivery } from "./delivery.js";
import { deviceId, sessionId, uuid7 } from "./identity.js";
import { watchPaths } from "./pages.js";
import { byteLength, openQueue, type Item } from "./queue.js";
import { attempt, openStore } from "./store.js";
import type { AnalyticsEvent, Client, Fields, Options, Properties } from "./types.js";

export type * from "./types.js";

const EVENT_BYTES = 32 * 1024;
/** Lone surrogates and NUL, which the service refuses; an escaped backslash is passed over. */
const UNWRITABLE = /\\(\\|ud[89a-f]..|u0000)/g;
/** "Cubot" makes telephones. */
const BOTS = /(^|[^u])bot|crawl|spider|slurp|lighthouse|facebookexternalhit|preview/i;

export function createClient(options: Options): Client {
  const doc = typeof document === "undefined" ? undefined : (document as Document & { prerendering?: boolean });
  const name = `gnomon:${options.name ?? options.key ?? options.url}:`;
  const store = openStore(options.storage, name);
  const queue = openQueue(store, uuid7(Date.now()), name, options.maxQueue ?? 1_000);
  const delivery = openDelivery(options, queue, allowed, drop);
  const known: Fields = { source: options.source ?? (doc && "web"), application: options.application };
  const unlisten: (() => void)[] = [];
  let closed = false;
  let shown: string | undefined;
  let watchers = 0;
  let unwatch: (() => void) | undefined;

  function allowed(): boolean {
    const { userAgent, webdriver, doNotTrack, globalPrivacyControl } = (globalThis.navigator ?? {}) as Signals;
    if (options.excludeBots !== false && userAgent && BOTS.test(userAgent)) return false;
    if (options.excludeWebdriver && webdriver) return false;
    const choice = store.get("consent");
    if (choice) return choice === "yes";
    if (options.respectPrivacySignals !== false && (doNotTrack === "1" || globalPrivacyControl)) return false;
    return options.consent !== "required";
  }

  function report(event: AnalyticsEvent, code: string, status: number): void {
    options.onDrop?.({ event, code, status });
  }

  function drop(item: Item, code: string, status: number): void {
    // What came from the storage may have been edited there, and the callback is the page's.
    attempt(() => report(JSON.parse(item.body), code, status));
  }

  function track(type: string, properties?: Properties, fields?: Fields): string | undefined {
    return attempt((): string | void => {
      if (!allowed()) return;
      // A page that is fetched ahead may never be looked at.
      if (doc?.prerendering) return whenShown(() => track(type, properties, fields));
      const now = Date.now();
      return enqueue({
        id: uuid7(now),
        ts: new Date(now).toISOString(),
        type,
        ...(doc && { device_id: deviceId(store, now), session_id: sessionId(store, now) }),
        ...known,
        ...fields,
        properties,
      } as AnalyticsEvent);
    }) as string | undefined;
  }

  function whenShown(action: () => void): void {
    if (doc?.prerendering) doc.addEventListener("prerenderingchange", action, { once: true });
    else action();
  }

  function enqueue(event: AnalyticsEvent): string | undefined {
    const body = attempt(() =>
      JSON.stringify(event).replace(UNWRITABLE, (text) => (text[1] === "u" ? "\ufffd" : text)),
    );
    if (!body) report(event, "not-json", 0);
    else if (byteLength(body) > EVENT_BYTES) report(event, "too-large", 0);
    else if (closed) report(event, "closed", 0);
    else if (queue.full()) report(event, "queue-full", 0);
    else {
      queue.add(event.id, body);
      delivery.plan();
      return event.id;
    }
    return undefined;
  }

  function page(properties?: Properties, fields?: Fields): string | undefined {
    if (!doc) return track("page_view", properties, fields);
    const seen = { title: doc.title, referrer: shown ? undefined : doc.referrer.split(/[?#]/)[0] || undefined };
    const { hostname: domain, pathname: endpoint } = location;
    shown = endpoint;
    return track("page_view", { ...seen, ...properties }, { domain, endpoint, ...fields });
  }

  function trackPages(): () => void {
    const changed = (): void => void (location.pathname !== shown && page());
    if (!doc) return () => {};
    if (!watchers++) unwatch = watchPaths(changed);
    changed();
    let on = true;
    return () => {
      if (on && !--watchers) unwatch!();
      on = false;
    };
  }

  /** What earlier pages left behind goes first. */
  function resume(): void {
    if (allowed()) void queue.adopt().then(delivery.run);
  }

  function hide(): void {
    attempt(delivery.hide);
  }

  function start(): void {
    queue.live();
    resume();
  }

  const listen = (target: EventTarget, type: string, action: (event: Event) => void): void => {
    target.addEventListener(type, action);
    unlisten.push(() => target.removeEventListener(type, action));
  };
  if (doc) {
    listen(globalThis.window, "pagehide", () => {
      hide();
      queue.leave();
    });
    // Back from the back/forward cache: the same page lives on, and is looked at once more.
    listen(globalThis.window, "pageshow", (event) => {
      if (!(event as PageTransitionEvent).persisted) return;
      delivery.thaw();
      if (watchers) page();
      start();
    });
    listen(globalThis.window, "online", delivery.online);
    listen(doc, "visibilitychange", () => (doc.visibilityState === "hidden" ? hide() : resume()));
    whenShown(start);
  } else resume();
  if (options.trackPages) trackPages();

  return {
    track,
    page,
    trackPages,
    allowed,
    identify(userId) {
      known.user_id = userId;
    },
    flush: (timeout = 30_000) => delivery.flush(timeout),
    async close(timeout = 30_000) {
      closed = true;
      const done = await delivery.flush(timeout);
      delivery.end();
      unlisten.forEach((remove) => remove());
      queue.leave();
      queue.all().forEach((item) => item.kept || drop(item, "closed", 0));
      return done;
    },
    optIn() {
      store.set("consent", "yes");
      resume();
    },
    optOut() {
      queue.clear();
      store.remove("device");
      store.remove("session");
      store.set("consent", "no");
    },
  };
}

type Signals = Partial<Navigator> & { globalPrivacyControl?: boolean };
