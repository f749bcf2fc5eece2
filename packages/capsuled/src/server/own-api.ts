/** The API asked from within: the same handlers and errors, without a connection, a key and an entry in the audit log. */
import { type Clients, clientsOf } from "@capsule/api/clients.ts";
import { type ConnectRouter, createClient, createRouterTransport } from "@connectrpc/connect";
import type { Logger } from "pino";
import { errorsInterceptor } from "./interceptors.ts";

/** For reading: whoever passes it on answers for who may see it. */
export function ownApi(routes: (router: ConnectRouter) => void, log: Logger): Clients {
  const transport = createRouterTransport(routes, { router: { interceptors: [errorsInterceptor(log)] } });
  return clientsOf((service) => createClient(service, transport));
}
