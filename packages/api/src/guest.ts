// The interface between a capsule and the agent in a microVM: a part of its own, for drivers know nothing of the rest.

export * from "./gen/capsule/v1/guest_pb.js";
/** Port of virtio-vsock that the agent listens on in a machine without the serial port (guest.proto). */
export const agentVsockPort = 52;
export { FileType } from "./gen/capsule/v1/session_pb.js";
