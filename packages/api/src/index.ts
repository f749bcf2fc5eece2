// The API: what both ends share. Generated messages and services, and the few rules that belong to them.

export * from "./gen/capsule/v1/capsule_pb.js";
export * from "./gen/capsule/v1/common_pb.js";
export * from "./gen/capsule/v1/identity_pb.js";
export * from "./gen/capsule/v1/image_pb.js";
export * from "./gen/capsule/v1/install_pb.js";
export * from "./gen/capsule/v1/machine_pb.js";
export * from "./gen/capsule/v1/pool_pb.js";
export * from "./gen/capsule/v1/session_pb.js";
export * from "./gen/capsule/v1/update_pb.js";
export * from "./gen/capsule/v1/volume_pb.js";
export * from "./gen/capsule/v1/workload_pb.js";
export * from "./gen/google/rpc/error_details_pb.js";
