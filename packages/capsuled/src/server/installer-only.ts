/** What an installer does not do: everything that a capsule does. Said to everybody, before anybody's key is looked at. */
import type { DescService } from "@bufbuild/protobuf";
import { IdentityService } from "@capsule/api";
import { services } from "@capsule/api/clients.ts";
import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";

/** Of IdentityService: to recognise an installer and to claim it. Keys beside the first one are the capsule's affair. */
const identity: ReadonlySet<string> = new Set(["GetIdentity", "Claim", "WhoAmI"]);

function guard(own: readonly DescService[]): Interceptor {
  const names = new Set(own.map(({ typeName }) => typeName));
  return (next) => async (request) => {
    const { service, method } = request;
    const isOurs =
      service.typeName === IdentityService.typeName ? identity.has(method.name) : names.has(service.typeName);
    // Reflection tells of what there is.
    if (isOurs || service.typeName.startsWith("grpc.reflection.")) return await next(request);
    const message =
      "This machine was started as an installer and runs nothing. `capsulectl install` puts Capsule on its disk; take the stick out and restart it to start from that.";
    throw new CapsuleError("precondition", message, { reason: "INSTALLER" });
  };
}

/** Makes the API's other services known to the router, so that their calls come to the guard. */
function refuseOthers(router: ConnectRouter, own: readonly DescService[]): void {
  for (const service of services)
    if (!own.some(({ typeName }) => typeName === service.typeName)) router.service(service, {});
}

export const installerOnly = { guard, refuseOthers } as const;
