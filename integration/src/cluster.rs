use std::time::{Duration, Instant};

use async_nats::ServerAddr;
use async_nats::jetstream::stream::{Config, Info, StorageType};
use async_nats::jetstream::{self, Context};

use crate::nats::Nats;
use crate::process::free_port;

/// Longest wait for an election, or for a member to have caught up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(1);

/// A member that has not caught up by then does not by itself.
const STUCK: Duration = Duration::from_secs(20);

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Servers of one cluster, enough to lose one.
const MEMBERS: usize = 3;

/// Three nats-servers in one JetStream cluster, each a process with a store of its own.
pub struct Cluster {
    /// By name: `n0`, `n1`, `n2`.
    members: Vec<Nats>,
    url: String,
}

impl Cluster {
    /// Starts one, and waits until it takes streams of three replicas.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn start() -> Self {
        let ports: Vec<u16> = (0..MEMBERS).map(|_| free_port()).collect();
        let route = |port: &u16| format!("nats://127.0.0.1:{port}");
        let routes = ports.iter().map(route).collect::<Vec<_>>().join(",");
        let member = |(index, port)| {
            let (name, listen) = (name(index), route(port));
            let cluster = ["-cluster_name", "mill", "-cluster", &listen, "-routes", &routes];
            Nats::start_with(&[&["-js", "-n", &name][..], &cluster].concat())
        };
        let members: Vec<Nats> = ports.iter().enumerate().map(member).collect();
        let url = members.iter().map(Nats::url).collect::<Vec<_>>().join(",");
        let cluster = Self { members, url };
        let probe =
            Config { name: "PROBE".into(), storage: StorageType::Memory, num_replicas: MEMBERS, ..Config::default() };
        let context = cluster.asking().await;
        let started = Instant::now();
        while context.create_stream(&probe).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "the cluster takes no streams");
            tokio::time::sleep(POLL).await;
        }
        context.delete_stream("PROBE").await.expect("the stream was just made");
        cluster
    }

    /// All three addresses, separated by commas.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Connects to one of its members.
    ///
    /// # Panics
    /// If none is there.
    pub async fn jetstream(&self) -> Context {
        let members = self.url.split(',').map(|url| url.parse::<ServerAddr>().expect("it is one"));
        jetstream::new(async_nats::connect(members.collect::<Vec<_>>()).await.expect("a member is up"))
    }

    /// As [`Self::jetstream`], for questions asked over and over: while there is no leader, nobody answers at all.
    async fn asking(&self) -> Context {
        let mut context = self.jetstream().await;
        context.set_timeout(ANSWER);
        context
    }

    /// The member that leads this stream; waits while there is none.
    pub async fn leader_of(&self, stream: &str) -> String {
        let info = self.until(stream, |info| info.cluster.as_ref().is_some_and(|group| group.leader.is_some())).await;
        info.cluster.and_then(|group| group.leader).expect("it was waited for")
    }

    /// Waits until all three members have all of this stream, so that one may be lost.
    ///
    /// A follower of nats-server 2.15.1 that was killed can ask its leader for ever for what it lacks ("expected first catchup
    /// entry to be a snapshot and peerstate, will retry"). An operator has the leader step down then, and so do we.
    pub async fn is_whole(&self, stream: &str) {
        let is_whole = |info: &Info| {
            let group = info.cluster.as_ref().filter(|group| group.leader.is_some());
            let followers = group.map_or(0, |group| group.replicas.iter().filter(|peer| peer.current).count());
            followers == MEMBERS - 1
        };
        while tokio::time::timeout(STUCK, self.until(stream, is_whole)).await.is_err() {
            let asked: Result<serde_json::Value, _> =
                self.asking().await.request(format!("STREAM.LEADER.STEPDOWN.{stream}"), &()).await;
            drop(asked);
        }
    }

    async fn until(&self, stream: &str, is_so: impl Fn(&Info) -> bool) -> Info {
        let (context, started) = (self.asking().await, Instant::now());
        loop {
            // An error is an election going on.
            if let Ok(found) = context.get_stream(stream).await
                && is_so(found.cached_info())
            {
                return found.cached_info().clone();
            }
            assert!(started.elapsed() < PATIENCE, "stream {stream} does not get well");
            tokio::time::sleep(POLL).await;
        }
    }

    /// kill -9.
    pub fn kill(&mut self, name: &str) {
        self.member(name).kill();
    }

    /// A new process in place of a killed one, on the same ports and store.
    pub fn restart(&mut self, name: &str) {
        self.member(name).restart();
    }

    fn member(&mut self, wanted: &str) -> &mut Nats {
        let index = (0..MEMBERS).find(|&index| name(index) == wanted);
        &mut self.members[index.unwrap_or_else(|| panic!("no member {wanted}"))]
    }
}

fn name(index: usize) -> String {
    format!("n{index}")
}
