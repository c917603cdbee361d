use gristmill_schemas::metric::{self, attribute, label};
use serde_json::{Value, json};

use crate::panel::{HEIGHT, WIDTH, datasource};
use crate::query::JOB;
use crate::rows;

/// The dashboard as Grafana imports it.
pub fn dashboard() -> Value {
    let mut panels = Vec::new();
    let (mut id, mut y) = (0, 0);
    let mut next = || {
        id += 1;
        id
    };
    for row in rows::all() {
        panels.push(heading(next(), row.title, y));
        y += 1;
        let mut x = 0;
        for panel in &row.panels {
            if x + panel.columns() > WIDTH {
                (x, y) = (0, y + HEIGHT);
            }
            panels.push(panel.json(next(), x, y));
            x += panel.columns();
        }
        y += HEIGHT;
    }
    json!({
        "uid": "gristmill", "title": "Gristmill", "tags": ["gristmill"], "schemaVersion": 39, "version": 1,
        "description": "Made by `make dashboards`: edit ops/dashboards/src, not this.",
        "editable": true, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "",
        "annotations": {"list": []}, "links": [],
        "templating": {"list": variables()},
        "panels": panels,
    })
}

/// Every query of the dashboard, with values for its variables.
pub fn expressions() -> Vec<String> {
    let values = [("$__rate_interval", "5m"), ("$__range", "1h"), ("$job", ".*"), ("$model", ".*"), ("$lane", ".*")];
    let filled = |text: &str| values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    let rows = rows::all();
    let panels = rows.iter().flat_map(|row| &row.panels);
    panels.flat_map(|panel| panel.expressions().map(filled).collect::<Vec<_>>()).collect()
}

fn heading(id: u32, title: &str, y: u32) -> Value {
    json!({
        "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
        "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
    })
}

fn variables() -> Value {
    let answers = metric::REQUEST_DURATION.prometheus();
    let ready = metric::READY.prometheus();
    let (model, lane) = (label(attribute::MODEL), label(attribute::LANE));
    json!([
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
        choice("job", "Deployment", &format!("label_values({ready}, {JOB})")),
        choice("model", "Model", &format!(r#"label_values({answers}{{{JOB}=~"$job"}}, {model})"#)),
        choice("lane", "Lane", &format!(r#"label_values({answers}{{{JOB}=~"$job"}}, {lane})"#)),
    ])
}

/// Several values or all of them; "all" also matches series without the label.
fn choice(name: &str, title: &str, query: &str) -> Value {
    json!({
        "name": name, "label": title, "type": "query", "datasource": datasource(), "refresh": 2, "sort": 1,
        "query": {"query": query, "refId": name}, "definition": query,
        "multi": true, "includeAll": true, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    })
}
