/**
 * The client in React: a provider, a hook, page views. Rendering has no effect of its own, so that rendering twice
 * (strict mode), on a server, or never to the end records nothing.
 */
import { createContext, useContext, useEffect, useRef, type ReactElement, type ReactNode } from "react";
import type { Client, Properties } from "@gnomon-analytics/js";

const Context = createContext<Client | undefined>(undefined);

export interface AnalyticsProviderProps {
  client: Client;
  children?: ReactNode;
}

export function AnalyticsProvider({ client, children }: AnalyticsProviderProps): ReactElement {
  return <Context.Provider value={client}>{children}</Context.Provider>;
}

/** The nearest provider's client, the same at each render. Without a provider: one that records nothing. */
export function useAnalytics(): Client {
  const client = useContext(Context);
  useEffect(() => {
    if (!client) console.warn("useAnalytics: there is no <AnalyticsProvider> above, so nothing is recorded.");
  }, [client]);
  return client ?? SILENT;
}

/**
 * Sends a `page_view` for each new path. Without arguments it watches the browser's history; give the path where a
 * router knows better, such as the route's template (`/orders/:id`). Mounting again on the
 * page that was sent last sends nothing.
 */
export function usePageTracking(path?: string, properties?: Properties): void {
  const client = useAnalytics();
  const latest = useRef(properties);
  // Two addresses of one template are two pages.
  const visit = path === undefined ? undefined : `${path} ${typeof location === "undefined" ? "" : location.pathname}`;
  useEffect(() => {
    latest.current = properties;
  });
  useEffect(() => {
    if (path === undefined) return client.trackPages();
    if (shown.get(client) === visit) return undefined;
    shown.set(client, visit!);
    client.page(latest.current, { endpoint: path });
    return undefined;
  }, [client, path, visit]);
}

/** `usePageTracking` as an element, for layouts. */
export function PageTracking({ path, properties }: { path?: string; properties?: Properties }): null {
  usePageTracking(path, properties);
  return null;
}

/** Beside the client and not in a ref, as strict mode and a layout that mounts again begin with fresh refs. */
const shown = new WeakMap<Client, string>();

const SILENT: Client = {
  track: () => undefined,
  identify: () => {},
  page: () => undefined,
  trackPages: () => () => {},
  flush: async () => true,
  close: async () => true,
  optIn: () => {},
  optOut: () => {},
  allowed: () => false,
};
