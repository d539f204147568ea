// Several clients of the SDK in one Node program: node node_clients.mjs BUNDLE OPTIONS, where OPTIONS is a JSON list.
// Prints {"flushed": [...], "dropped": [...], "ids": [...]} when all is settled.
const [bundle, given] = process.argv.slice(2);
const { createClient } = await import(bundle);

const dropped = [];
const ids = [];
async function live({ events, label, token, ...options }, at) {
  const client = createClient({ ...options, ...(token && { token: async () => token }), onDrop: (one) => dropped.push(one) });
  for (let n = 0; n < events; n++) {
    ids.push(client.track("sale", { label: `${label} ${n}`, amount: n / 4 }));
    if (n % 100 === 99) await new Promise((done) => setTimeout(done, at % 5));
  }
  return client.close(200_000);
}

const flushed = await Promise.all(JSON.parse(given).map(live));
console.log(JSON.stringify({ flushed, dropped, ids }));
