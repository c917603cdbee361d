//! What the results of each model share, made once.

use std::sync::Arc;

use async_nats::Subject;
use gristmill_schemas::Token;

use super::encode::Names;
use super::lines::Lines;
use crate::message::Served;

/// What the results of each model that has answered share. Owned by the publish task.
#[derive(Debug, Default)]
pub(super) struct Heads(Vec<Head>);

#[derive(Debug)]
struct Head {
    model: Arc<Served>,
    lines: Lines,
    /// Where the last result went: the next one most often goes there, too.
    last: (Token, Subject),
}

impl Heads {
    /// The headers of a model's results, and the subject of its results with this reply token.
    pub(super) fn of(&mut self, names: &Names, model: &Arc<Served>, reply: &Token) -> (&Lines, Subject) {
        let subject = || (reply.clone(), names.namespace.result_subject(&model.name, reply).into());
        let known = self.0.iter().position(|head| Arc::ptr_eq(&head.model, model)).unwrap_or_else(|| {
            let lines = names.head(&model.name, Some(model), "ok");
            self.0.push(Head { model: Arc::clone(model), lines, last: subject() });
            self.0.len() - 1
        });
        let Head { lines, last, .. } = &mut self.0[known];
        if last.0 != *reply {
            *last = subject();
        }
        (lines, last.1.clone())
    }
}
