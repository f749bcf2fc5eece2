/** The API asked from within: the same handlers and errors, without a connection, a key and an entry in the audit log. */
import {
  CapsuleService,
  IdentityService,
  ImageService,
  PoolService,
  UpdateService,
  VolumeService,
  WorkloadService,
} from "@capsule/api";
import { type ConnectRouter, createClient, createRouterTransport } from "@connectrpc/connect";
import type { Logger } from "pino";
import type { OwnApi } from "../support/parts/api.ts";
import { errorsInterceptor } from "./interceptors.ts";

/** For reading: whoever passes it on answers for who may see it. */
export function ownApi(routes: (router: ConnectRouter) => void, log: Logger): OwnApi {
  const transport = createRouterTransport(routes, { router: { interceptors: [errorsInterceptor(log)] } });
  return {
    identity: createClient(IdentityService, transport),
    capsule: createClient(CapsuleService, transport),
    workloads: createClient(WorkloadService, transport),
    volumes: createClient(VolumeService, transport),
    pools: createClient(PoolService, transport),
    images: createClient(ImageService, transport),
    updates: createClient(UpdateService, transport),
  };
}
