// Checked by the compiler only: what callers may and may not write.
import { createClient } from "@gnomon-analytics/js";
import { AnalyticsProvider, PageTracking, useAnalytics, usePageTracking } from "../src/index.js";

const client = createClient({ url: "https://a.example", key: "k" });

export function Button() {
  const { track } = useAnalytics();
  usePageTracking("/orders/:id", { plan: "pro" });
  return <button onClick={() => track("click", { n: 1 })} />;
}

export const page = (
  <AnalyticsProvider client={client}>
    <PageTracking path="/" />
    <Button />
  </AnalyticsProvider>
);

// @ts-expect-error a provider needs its client
export const bare = <AnalyticsProvider />;
