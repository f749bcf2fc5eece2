//! One stream of the payload's log to the capsule, and what it acknowledges meanwhile.

use crate::api::{PayloadLogsRequest, PayloadLogsResponse};
use crate::logs::{Next, time_of, timestamp_of};
use crate::payload::Payload;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

/// Lines as they come, and what is acknowledged meanwhile.
pub async fn send_logs(
    payload: Arc<Payload>,
    mut requests: Streaming<PayloadLogsRequest>,
    sender: Sender<Result<PayloadLogsResponse, Status>>,
) {
    let logs = &payload.logs;
    let reader = logs.reader();
    let known = |request: PayloadLogsRequest| request.known.as_ref().map_or(0, time_of);
    let Ok(Some(first)) = requests.message().await else {
        return;
    };
    let mut after = known(first);
    logs.forget(after);
    let acknowledged = async {
        while let Ok(Some(request)) = requests.message().await {
            logs.forget(known(request));
        }
        // A caller who acknowledges nothing more still listens; one who has gone closes the answers too.
        std::future::pending::<()>().await;
    };
    let sent = async {
        // Before the payload is started there is no stream whose end could be told.
        let mut state = payload.watch();
        let _ = state.wait_for(|state| state.started_at.is_some()).await;
        loop {
            let response = match logs.next(reader, after).await {
                Next::Lines { lines, last } => {
                    after = last;
                    PayloadLogsResponse {
                        lines: lines.into(),
                        last: Some(timestamp_of(last)),
                        end: false,
                    }
                }
                Next::End => {
                    let _ = sender
                        .send(Ok(PayloadLogsResponse {
                            end: true,
                            ..PayloadLogsResponse::default()
                        }))
                        .await;
                    // The acknowledgement of the last lines may still be on its way.
                    sender.closed().await;
                    return;
                }
                Next::Replaced => return,
            };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = sent => {}
        () = acknowledged => {}
        () = sender.closed() => {}
    }
}
