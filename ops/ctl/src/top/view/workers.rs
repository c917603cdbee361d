use super::Width::{Name, Number, Rest, Text};
use super::work::Work;
use super::{Column, Row, Table, Tone, column, or_none};
use crate::top::format;
use crate::top::snapshot::{Answer, Snapshot, Worker};

const COLUMNS: &[Column] = &[
    column("", "WORKER", Name),
    column("", "VERSION", Text(8)),
    column("", "UP", Number(5)),
    column("", "IN FLIGHT", Number(11)),
    column("", "RES/S", Number(5)),
    column("", "STATE", Rest),
];

/// Each worker that answered, those that need somebody first.
pub(super) fn table(snapshot: &Snapshot, work: &Work) -> Table {
    let workers = snapshot.workers.iter().zip(&work.answered);
    let mut rows: Vec<Row> =
        workers.map(|(worker, answered)| row(worker, answered.and_then(|n| work.rate(n)))).collect();
    rows.sort_by(|a, b| (a.tone, &a.cells).cmp(&(b.tone, &b.cells)));
    Table { columns: COLUMNS, rows, empty: "no worker answered" }
}

fn row(worker: &Worker, rate: Option<f64>) -> Row {
    match worker {
        Worker::Read(answer) => Row {
            cells: vec![
                answer.worker.clone(),
                answer.version.clone(),
                format::age(answer.uptime_s),
                in_flight(answer),
                or_none(rate, format::rate),
                state(answer),
            ],
            tone: if answer.ready { Tone::Plain } else { Tone::Bad },
        },
        Worker::Unreadable { name, why } => {
            let mut cells = vec![format::NONE.to_owned(); COLUMNS.len()];
            cells[0].clone_from(name);
            cells[COLUMNS.len() - 1] = format!("unreadable: {why}");
            Row { cells, tone: Tone::Bad }
        }
    }
}

fn in_flight(answer: &Answer) -> String {
    let [now, limit] = [answer.permits.in_flight, answer.permits.limit].map(|n| format::count(n as f64));
    format!("{now}/{limit}")
}

fn state(answer: &Answer) -> String {
    if !answer.ready {
        return format!("not ready: {}", answer.missing.join("; "));
    }
    let served = answer.models.iter().filter(|model| model.refused.is_none());
    let served: Vec<String> = served.map(|model| format!("{} {}", model.name, model.version)).collect();
    if served.is_empty() { "ready, no model".to_owned() } else { format!("ready: {}", served.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::{answer, busy, read, snapshot};

    #[test]
    fn workers_that_need_somebody_come_first() {
        let missing = vec!["NATS is not connected".into(), "the worker is draining".into()];
        let waiting = Answer { ready: false, missing, ..answer("w9") };
        let odd = Worker::Unreadable { name: "?".into(), why: "EOF while parsing".into() };
        let earlier = snapshot(100, vec![read(busy("w1", 100))]);
        let later = snapshot(102, vec![read(busy("w1", 102)), read(waiting), odd, read(answer("w0"))]);
        let table = table(&later, &Work::between(Some(&earlier), &later));
        let rows: Vec<String> = table.rows.iter().map(|row| row.cells.join(" | ")).collect();
        assert_eq!(
            rows,
            [
                "? | - | - | - | - | unreadable: EOF while parsing",
                "w9 | 0.1.0 | 100s | 17/2048 | - | not ready: NATS is not connected; the worker is draining",
                "w0 | 0.1.0 | 100s | 17/2048 | - | ready: mlp 3",
                "w1 | 0.1.0 | 102s | 17/2048 | 500 | ready: mlp 3",
            ]
        );
    }
}
