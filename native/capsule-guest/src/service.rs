//! The service that the capsule calls.

use crate::api::guest_agent_server::{GuestAgent, GuestAgentServer};
use crate::api::{
    CopyInRequest, CopyInResponse, CopyOutOfPayloadRequest, CopyOutResponse, ExecInPayloadRequest, ExecResponse,
    FreezeVolumeRequest, FreezeVolumeResponse, PayloadLogsRequest, PayloadLogsResponse, PayloadStatsRequest,
    PayloadStatsResponse, PowerOffRequest, PowerOffResponse, SetTimeRequest, SetTimeResponse, SignalPayloadRequest,
    SignalPayloadResponse, StartPayloadRequest, StartPayloadResponse, StatPathResponse, StatPayloadPathRequest,
    WatchStateRequest, WatchStateResponse,
};
use crate::console::say;
use crate::freeze::Frozen;
use crate::log_stream::send_logs;
use crate::payload::{Payload, set_time};
use crate::reaper::Reaper;
use crate::{copy, exec, port, power, stats, virtio, vsock};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Answers that wait for the connection: a caller that is slow slows down what it asks for.
const QUEUE: usize = 4;
/// Of one stream: large enough that the two ends do not wait for each other at every chunk.
const WINDOW: u32 = 1024 * 1024;

/// Files and the configuration of a payload come in one message.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Longer than capsuled gives a snapshot (microvm/freeze.ts). The end of a connection may be lost, and writers wait.
const MAX_FROZEN: Duration = Duration::from_secs(25);
/// Blocking calls (mounts, flushes) are rare, and never many at once.
const MAX_BLOCKING: usize = 4;

/// Answers until the machine is switched off.
pub fn serve() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let reaper = Reaper::start().map_err(|error| error.to_string())?;
        let incoming = if virtio::has_device(virtio::VSOCK) {
            vsock::listen()
        } else {
            port::listen().await
        };
        let incoming = incoming.map_err(|error| format!("its port cannot be opened: {error}"))?;
        say("ready");
        let agent = Agent {
            payload: Arc::new(Payload::new(reaper)),
        };
        Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4)
            .add_service(GuestAgentServer::new(agent).max_decoding_message_size(MAX_MESSAGE))
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await
            .map_err(|error| error.to_string())
    })
}

struct Agent {
    payload: Arc<Payload>,
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream of answers, and where they are put.
fn answers<T: Send + 'static>() -> (Sender<Result<T, Status>>, Response<Answers<T>>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (sender, Response::new(Box::pin(ReceiverStream::new(receiver))))
}

#[tonic::async_trait]
impl GuestAgent for Agent {
    type WatchStateStream = Answers<WatchStateResponse>;
    type PayloadLogsStream = Answers<PayloadLogsResponse>;
    type ExecInPayloadStream = Answers<ExecResponse>;
    type CopyOutOfPayloadStream = Answers<CopyOutResponse>;
    type FreezeVolumeStream = Answers<FreezeVolumeResponse>;

    async fn watch_state(&self, _: Request<WatchStateRequest>) -> Answer<Self::WatchStateStream> {
        let (sender, response) = answers();
        let mut state = self.payload.watch();
        tokio::spawn(async move {
            loop {
                let now = state.borrow_and_update().clone();
                if sender.send(Ok(now)).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(response)
    }

    async fn start_payload(&self, request: Request<StartPayloadRequest>) -> Answer<StartPayloadResponse> {
        let payload = Arc::clone(&self.payload);
        // On its own: a caller who goes away must not cut it in the middle.
        let started = tokio::spawn(async move { payload.start(request.into_inner()).await });
        match started.await.map_err(|error| Status::internal(error.to_string()))? {
            Ok(started_at) => Ok(Response::new(StartPayloadResponse {
                started_at: Some(started_at),
            })),
            Err(status) => {
                say(format_args!("the payload was not started: {}", status.message()));
                Err(status)
            }
        }
    }

    async fn signal_payload(&self, request: Request<SignalPayloadRequest>) -> Answer<SignalPayloadResponse> {
        self.payload.signal(request.into_inner().signal)?;
        Ok(Response::new(SignalPayloadResponse {}))
    }

    async fn power_off(&self, _: Request<PowerOffRequest>) -> Answer<PowerOffResponse> {
        let faults = self.payload.end().await;
        power::off_soon();
        Ok(Response::new(PowerOffResponse { faults }))
    }

    async fn payload_logs(&self, request: Request<Streaming<PayloadLogsRequest>>) -> Answer<Self::PayloadLogsStream> {
        let (sender, response) = answers();
        tokio::spawn(send_logs(Arc::clone(&self.payload), request.into_inner(), sender));
        Ok(response)
    }

    async fn exec_in_payload(
        &self,
        request: Request<Streaming<ExecInPayloadRequest>>,
    ) -> Answer<Self::ExecInPayloadStream> {
        let (sender, response) = answers();
        tokio::spawn(exec::run(Arc::clone(&self.payload), request.into_inner(), sender));
        Ok(response)
    }

    async fn stat_payload_path(&self, request: Request<StatPayloadPathRequest>) -> Answer<StatPathResponse> {
        copy::stat(&self.payload, &request.into_inner().path)
            .await
            .map(Response::new)
    }

    async fn copy_into_payload(&self, request: Request<Streaming<CopyInRequest>>) -> Answer<CopyInResponse> {
        copy::into(&self.payload, request.into_inner()).await.map(Response::new)
    }

    async fn copy_out_of_payload(
        &self,
        request: Request<CopyOutOfPayloadRequest>,
    ) -> Answer<Self::CopyOutOfPayloadStream> {
        let (sender, response) = answers();
        tokio::spawn(copy::out(Arc::clone(&self.payload), request.into_inner().path, sender));
        Ok(response)
    }

    async fn payload_stats(&self, _: Request<PayloadStatsRequest>) -> Answer<PayloadStatsResponse> {
        Ok(Response::new(stats::read()))
    }

    async fn freeze_volume(&self, request: Request<FreezeVolumeRequest>) -> Answer<Self::FreezeVolumeStream> {
        let volume = request.into_inner().volume;
        let frozen = tokio::task::spawn_blocking(move || Frozen::freeze(volume as usize))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::failed_precondition(format!("volume {volume} cannot be frozen: {error}")))?;
        let (sender, response) = answers();
        tokio::spawn(async move {
            if sender.send(Ok(FreezeVolumeResponse {})).await.is_ok() {
                let _ = timeout(MAX_FROZEN, sender.closed()).await;
            }
            drop(frozen);
        });
        Ok(response)
    }

    async fn set_time(&self, request: Request<SetTimeRequest>) -> Answer<SetTimeResponse> {
        if let Some(now) = request.into_inner().now {
            set_time(&now)?;
        }
        Ok(Response::new(SetTimeResponse {}))
    }
}
