/** Streams of bytes, between ours and the library's: both must say the same on the wire. */
import assert from "node:assert/strict";
import { createServer, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { WorkloadService } from "@capsule/api";
import { bulkStreams } from "@capsule/api/bulk-client.ts";
import {
  type Client,
  Code,
  ConnectError,
  createClient,
  createContextValues,
  type Interceptor,
} from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import { type BulkOptions, bulkHandlers } from "./bulk.ts";

const large = Buffer.alloc(1_000_000, "0123456789");
const seen: string[] = [];
const ended: string[] = [];

/** Notes what it is called for, as the gate does. */
const noting: Interceptor = (next) => async (request) => {
  seen.push(`${request.method.name} ${request.header.get("x-test")}`);
  return await next(request);
};

const options: BulkOptions = {
  interceptors: [noting],
  contextValues: () => createContextValues(),
  readMaxBytes: 16 * 1024 * 1024,
  routes: (router) => {
    router.service(WorkloadService, {
      async copyIn(requests) {
        let bytes = 0;
        for await (const { input } of requests) if (input.case === "data") bytes += input.value.length;
        return { bytes: BigInt(bytes), entries: 7n };
      },
      async *copyOut({ path }, { signal }) {
        try {
          if (path === "/refused") throw new ConnectError("no such path", Code.NotFound);
          yield { data: new Uint8Array() };
          yield { data: large };
          if (path === "/cut") throw new ConnectError("it broke ✂", Code.DataLoss);
          if (path === "/fault") throw new TypeError("a secret");
          if (path === "/endless") await sleep(60_000, undefined, { signal });
        } finally {
          ended.push(path);
        }
      },
    });
  },
};

let server: Http2Server;
let byLibrary = 0;
const clients: Record<string, Client<typeof WorkloadService>> = {};
const sessions: Http2SessionManager[] = [];

before(async () => {
  const bulk = bulkHandlers(options);
  const library = connectNodeAdapter({ ...options, contextValues: () => createContextValues() });
  server = createServer((request, response) => {
    const listener = bulk(request);
    if (listener !== undefined) return listener(request, response);
    byLibrary++;
    library(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const sessionManager = new Http2SessionManager(baseUrl);
  sessions.push(sessionManager);
  const transport = createGrpcTransport({ baseUrl, sessionManager, acceptCompression: [] });
  clients["the library's"] = createClient(WorkloadService, transport);
  const stream = bulkStreams({ baseUrl, sessionManager, interceptors: [] });
  clients["our own"] = createClient(WorkloadService, { ...transport, stream });
  clients["gRPC-Web's"] = createClient(
    WorkloadService,
    createGrpcWebTransport({ baseUrl, httpVersion: "2", sessionManager }),
  );
});
after(() => {
  for (const session of sessions) session.abort();
  server.close();
});

for (const name of ["the library's", "our own", "gRPC-Web's"]) {
  describe(`by ${name} client`, () => {
    const client = (): Client<typeof WorkloadService> => clients[name] as Client<typeof WorkloadService>;
    const received = async (path: string, options: { timeoutMs?: number; leave?: boolean } = {}): Promise<Buffer> => {
      const parts: Uint8Array[] = [];
      const { timeoutMs, leave } = options;
      const leaving = new AbortController();
      const call = { signal: leaving.signal, ...(timeoutMs && { timeoutMs }), headers: { "x-test": name } };
      for await (const { data } of client().copyOut({ path }, call)) {
        parts.push(Uint8Array.from(data));
        if (leave === true) leaving.abort();
      }
      return Buffer.concat(parts);
    };
    const refused = async (call: Promise<unknown>, code: Code, text: RegExp): Promise<void> => {
      await assert.rejects(call, (error) => {
        assert.ok(error instanceof ConnectError);
        assert.equal(error.code, code);
        assert.match(error.rawMessage, text);
        return true;
      });
    };

    test("bytes in and out, through the interceptors", async () => {
      seen.length = 0;
      assert.ok((await received("/all")).equals(large));
      if (name !== "gRPC-Web's") {
        const requests = async function* () {
          yield { input: { case: "start" as const, value: { name: "x", path: "/" } } };
          for (let i = 0; i < 5; i++) yield { input: { case: "data" as const, value: large.subarray(i) } };
        };
        const { bytes, entries } = await client().copyIn(requests(), { headers: { "x-test": name } });
        assert.deepEqual([bytes, entries], [4_999_990n, 7n]);
      }
      assert.deepEqual(seen, name === "gRPC-Web's" ? [`CopyOut ${name}`] : [`CopyOut ${name}`, `CopyIn ${name}`]);
    });

    test("errors before and behind the first message, and those that are nobody's business", async () => {
      await refused(received("/refused"), Code.NotFound, /no such path/);
      await refused(received("/cut"), Code.DataLoss, /it broke ✂/);
      await refused(received("/fault"), Code.Internal, /^internal error$/);
    });

    test("a deadline, and a caller who leaves, end the handler", async () => {
      ended.length = 0;
      await refused(received("/endless", { timeoutMs: 200 }), Code.DeadlineExceeded, /./);
      await refused(received("/endless", { leave: true }), Code.Canceled, /./);
      for (let i = 0; i < 200 && ended.length < 2; i++) await sleep(10);
      assert.deepEqual(ended, ["/endless", "/endless"]);
    });
  });
}

test("who answered", () => {
  assert.equal(byLibrary, 6, "gRPC-Web's calls, and only they");
});
