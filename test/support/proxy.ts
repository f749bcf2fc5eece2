/** A TCP proxy that breaks its connections: for what must survive that. */
import { connect, createServer, type Server, type Socket } from "node:net";

export class BreakingProxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Bytes from the target after which a connection breaks; from the client too. */
  breakAfterBytes = Number.POSITIVE_INFINITY;
  /** Whether a connection breaks when, its client having said so many bytes and then nothing, the target answers. */
  breakAnswerAfterBytes = Number.POSITIVE_INFINITY;
  /** Connections that were broken. */
  broken = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(port: number): Promise<BreakingProxy> {
    const server = createServer();
    const proxy = new BreakingProxy(server);
    server.on("connection", (client) => proxy.#carry(client, connect(port, "127.0.0.1")));
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === "string") throw new Error("the proxy does not listen");
    return address.port;
  }

  stop(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #carry(client: Socket, target: Socket): void {
    let carried = 0;
    let [said, saidAt] = [0, 0];
    const isAnswer = (): boolean => said > this.breakAnswerAfterBytes && performance.now() - saidAt > 30;
    for (const [from, to] of [
      [client, target],
      [target, client],
    ] as const) {
      this.#sockets.add(from);
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      from.on("error", () => undefined);
      from.on("data", (data: Buffer) => {
        carried += data.length;
        if (from === client) [said, saidAt] = [said + data.length, performance.now()];
        if (carried > this.breakAfterBytes || (from === target && isAnswer())) {
          this.broken++;
          client.resetAndDestroy();
          target.resetAndDestroy();
        } else if (!to.write(data)) {
          from.pause();
          to.once("drain", () => from.resume());
        }
      });
    }
  }
}
