/** The parts of the API's JSON that tests look at. */
export interface WorkloadJson {
  readonly uid: string;
  readonly generation: string;
  readonly spec: { readonly name: string };
  readonly desired: string;
  readonly status: {
    readonly phase: string;
    readonly message: string;
    readonly observedGeneration: string;
    readonly pid: number;
    readonly restartCount: number;
    readonly addresses: readonly string[];
    readonly imageDigest: string;
    readonly lastExit?: { readonly code: number; readonly outOfMemory: boolean };
    readonly nextRetryAt?: string;
  };
}

export interface ListWorkloadsResponseJson {
  readonly workloads: WorkloadJson[];
}
