import { connect } from "node:tls";

/** Whether a port of 127.0.0.1 answers with TLS: a forwarded one takes connections before anybody is behind it. */
export async function answersTls(port: number): Promise<boolean> {
  const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false, minVersion: "TLSv1.3", timeout: 2_000 });
  return await new Promise<boolean>((resolve) => {
    socket.once("secureConnect", () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("timeout", () => resolve(false));
  }).finally(() => socket.destroy());
}
