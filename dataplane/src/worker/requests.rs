//! What control asks of a worker, and what a worker reports: bounded queues, so that
//! neither ever waits for the other.

use crate::clock::Instant;
use crate::director::{Director, Explanation, Talker};
use crate::flow::{Endpoint, Protocol};
use crate::ids::{PortId, ServiceId, WorkerId};
use crate::network::Network;
use crate::session::{SessionRecord, State};
use crate::snapshot::NextHop;
use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Events that may wait for the control thread; more ARP than that in a millisecond is a flood.
const EVENTS: usize = 512;
const COMMANDS: usize = 256;
/// Lists that one worker writes at a time.
const QUERIES: usize = 16;
/// Lines of the table that a list looks at in one turn: about 0.5 µs.
const LINES_PER_TURN: usize = 128;
/// Bytes of the largest frame that control exchanges with workers: a neighbour's advertisement has 86.
const CONTROL_FRAME_LEN: usize = 96;

/// A small frame by value, so that no queue owns memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFrame(ArrayVec<u8, CONTROL_FRAME_LEN>);

impl ControlFrame {
    /// A copy of the frame's first 96 bytes.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self(bytes.iter().copied().take(CONTROL_FRAME_LEN).collect())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a worker tells control.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame about neighbours came in: ARP, or neighbour discovery.
    Neighbor {
        /// The port it came by.
        port: PortId,
        /// The frame.
        frame: ControlFrame,
    },
    /// A packet waits for this next hop.
    Resolve(NextHop),
    /// A source broke the rate of a service that bans those.
    Offender {
        /// The service.
        service: ServiceId,
        /// The source.
        source: Network,
    },
}

/// What control asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Send this frame.
    Transmit {
        /// The port to send by.
        port: PortId,
        /// The frame, complete.
        frame: ControlFrame,
    },
    /// Write sessions into the query and send it back.
    List(Box<SessionQuery>),
    /// Say what would become of a frame, and send that back.
    Explain(Box<Inquiry>),
    /// Name the sources that broke rates, and send that back.
    Sources(Box<SourceQuery>),
}

/// What a worker sends back.
#[derive(Debug)]
pub enum Answer {
    /// Sessions.
    List(Box<SessionQuery>),
    /// What would become of a frame.
    Explained(Box<Inquiry>),
    /// Sources that broke rates.
    Sources(Box<SourceQuery>),
}

/// A question for the sources that broke rates.
#[derive(Debug)]
pub struct SourceQuery {
    /// Tells answers apart.
    pub id: u64,
    /// The answer; its capacity is not exceeded.
    pub talkers: Vec<Talker>,
}

/// A question for what would become of a frame.
#[derive(Debug)]
pub struct Inquiry {
    /// Tells answers apart.
    pub id: u64,
    /// The port by which it would come.
    pub port: PortId,
    /// The frame.
    pub frame: ControlFrame,
    /// The answer.
    pub explanation: Option<Explanation>,
}

/// An endpoint of sessions that are asked for: a network, and perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointFilter {
    /// Where its address is.
    pub network: Network,
    /// Its port, if it matters.
    pub l4_port: Option<u16>,
}

impl EndpointFilter {
    fn wants(&self, endpoint: Endpoint) -> bool {
        self.network.contains(endpoint.address) && self.l4_port.is_none_or(|port| port == endpoint.l4_port)
    }
}

impl FromStr for EndpointFilter {
    type Err = String;

    /// An address, an address with a port, or a network.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self { network: Network::host(socket.ip()), l4_port: Some(socket.port()) });
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let network = match bare.parse::<IpAddr>() {
            Ok(address) => Network::host(address),
            Err(_) => text.parse().map_err(|_| {
                format!("`{text}` is not ADDRESS, ADDRESS:PORT or ADDRESS/LENGTH; write it as 192.0.2.7 or 192.0.2.0/24")
            })?,
        };
        Ok(Self { network, l4_port: None })
    }
}

/// Which sessions are asked for; what is `None` does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// The client.
    pub client: Option<EndpointFilter>,
    /// What the client addresses.
    pub vip: Option<EndpointFilter>,
    /// The director's side towards the server.
    pub local: Option<EndpointFilter>,
    /// The server.
    pub real: Option<EndpointFilter>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The state.
    pub state: Option<State>,
}

impl SessionFilter {
    fn wants(&self, record: &SessionRecord) -> bool {
        let is = |filter: &Option<EndpointFilter>, endpoint| filter.is_none_or(|one| one.wants(endpoint));
        is(&self.client, record.client)
            && is(&self.vip, record.vip)
            && is(&self.local, record.local)
            && is(&self.real, record.real)
            && self.protocol.is_none_or(|protocol| protocol == record.protocol)
            && self.state.is_none_or(|state| state == record.state)
    }
}

/// A question for sessions: the worker fills `records` and never lets it grow.
#[derive(Debug)]
pub struct SessionQuery {
    /// Tells answers apart.
    pub id: u64,
    /// The table's line to go on from; the table's end when all was seen.
    pub line: usize,
    /// Whether the end of the table was reached.
    pub finished: bool,
    /// Which sessions.
    pub filter: SessionFilter,
    /// The answer; its capacity is the page's size.
    pub records: Vec<SessionRecord>,
}

impl SessionQuery {
    /// A question for at most `page` sessions of `filter` from `line` on.
    pub fn new(id: u64, line: usize, page: usize, filter: SessionFilter) -> Self {
        Self { id, line, finished: false, filter, records: Vec::with_capacity(page) }
    }
}

#[derive(Debug)]
struct Queues {
    events: ArrayQueue<Event>,
    commands: ArrayQueue<Command>,
    answers: ArrayQueue<Answer>,
}

/// Control's end of the queues to one worker.
#[derive(Clone, Debug)]
pub struct Link(Arc<Queues>);

/// The worker's end.
#[derive(Debug)]
pub struct WorkerLink {
    queues: Arc<Queues>,
    lists: ArrayVec<Box<SessionQuery>, QUERIES>,
}

/// The queues between control and one worker.
pub fn link() -> (Link, WorkerLink) {
    let queues = Arc::new(Queues {
        events: ArrayQueue::new(EVENTS),
        commands: ArrayQueue::new(COMMANDS),
        answers: ArrayQueue::new(COMMANDS),
    });
    (Link(Arc::clone(&queues)), WorkerLink { queues, lists: ArrayVec::new() })
}

impl Link {
    /// Asks the worker for something.
    ///
    /// # Errors
    /// Gives the command back when the worker has too much to do already.
    pub fn ask(&self, command: Command) -> Result<(), Command> {
        self.0.commands.push(command)
    }

    /// The next thing the worker reported.
    pub fn next_event(&self) -> Option<Event> {
        self.0.events.pop()
    }

    /// The next answer.
    pub fn next_answer(&self) -> Option<Answer> {
        self.0.answers.pop()
    }
}

impl WorkerLink {
    pub(super) fn report(&self, event: Event) -> Result<(), Event> {
        self.queues.events.push(event)
    }

    #[inline]
    pub(super) fn next_command(&self) -> Option<Command> {
        if self.queues.commands.is_empty() || self.lists.is_full() {
            return None;
        }
        self.queues.commands.pop()
    }

    pub(super) fn begin(&mut self, query: Box<SessionQuery>) {
        self.lists.push(query);
    }

    /// Sends back what would become of a frame. Control never has more questions open than the queue holds.
    pub(super) fn explained(&self, inquiry: Box<Inquiry>) {
        let _ = self.queues.answers.push(Answer::Explained(inquiry));
    }

    /// Sends back the sources that broke rates. Control never has more questions open than the queue holds.
    pub(super) fn named(&self, query: Box<SourceQuery>) {
        let _ = self.queues.answers.push(Answer::Sources(query));
    }

    /// Looks at a few more lines for the list that was asked for first.
    #[inline]
    pub(super) fn continue_list(&mut self, director: &Director, worker: WorkerId, now: Instant) {
        let Some(query) = self.lists.first_mut() else { return };
        let (narrow, wide) = (director.sessions(), director.sessions6());
        let lines = narrow.capacity() + wide.capacity();
        let end = lines.min(query.line + LINES_PER_TURN);
        while query.line < end && query.records.len() < query.records.capacity() {
            let record = match query.line.checked_sub(narrow.capacity()) {
                None => narrow
                    .line(query.line)
                    .map(|(_, session)| SessionRecord::of(session, worker, now.stamp())),
                Some(line) => {
                    wide.line(line).map(|(_, session)| SessionRecord::of(session, worker, now.stamp()))
                }
            };
            query.records.extend(record.filter(|record| query.filter.wants(record)));
            query.line += 1;
        }
        query.finished = query.line >= lines;
        if query.finished || query.records.len() == query.records.capacity() {
            let query = self.lists.remove(0);
            // Control never has more questions open than the queue holds; were it otherwise, the
            // list would wait its turn again rather than be freed here.
            if let Err(Answer::List(query)) = self.queues.answers.push(Answer::List(query)) {
                self.lists.push(query);
            }
        }
    }
}
