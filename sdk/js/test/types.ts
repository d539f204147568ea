// Checked by the compiler only: what callers may and may not write.
import { createClient, type Client, type Dropped } from "../src/index.js";

const client: Client = createClient({
  url: "https://a.example",
  token: async () => "t",
  onDrop: (dropped: Dropped) => dropped.event.id,
});
const id: string | undefined = client.track(
  "order",
  { amount: 1, nested: { a: [1] } },
  { ts: new Date(), success: true },
);
client.identify(id ?? null);
const { page, flush } = client;
page();
const done: Promise<boolean> = flush();
void done;

// @ts-expect-error a type is required
client.track();
// @ts-expect-error the service refuses fields that it does not know
client.track("a", {}, { colour: "red" });
// @ts-expect-error a url is required
createClient({ token: "t" });
// @ts-expect-error one of two words
createClient({ url: "", consent: "maybe" });
