// Serves what the pages have stored, so that they work without a connection, and isolates them, so that two threads can share memory.
// What is stored, and its check, is the pages' work: see files.mjs.
const CACHE = "onnxferry-{{VERSION}}";

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    for (const name of await caches.keys()) if (name.startsWith("onnxferry-") && name !== CACHE) await caches.delete(name);
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(answer(request));
});

async function answer(request) {
  // The page itself comes from the network where there is one: so a new version is seen, and it knows its files by their SHA-256.
  if (request.mode === "navigate") {
    try {
      return isolated(await fetch(request));
    } catch (error) {
      const kept = await stored(new URL("index.html", self.registration.scope).href);
      if (kept) return isolated(kept);
      throw error;
    }
  }
  return isolated((request.cache === "reload" ? undefined : await stored(request.url)) ?? (await fetch(request)));
}

async function stored(url) {
  try {
    return await (await caches.open(CACHE)).match(url, { ignoreSearch: true });
  } catch {
    return undefined; // storage that is closed or broken: the network answers
  }
}

/** Cross-origin isolated (HTML Standard, "cross-origin isolation"): what WebAssembly's threads need. */
function isolated(response) {
  if (response.type === "opaque" || response.type === "opaqueredirect" || response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const empty = [204, 205, 304].includes(response.status);
  return new Response(empty ? null : response.body, { status: response.status, statusText: response.statusText, headers });
}
