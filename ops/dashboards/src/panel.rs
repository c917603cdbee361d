//! Panels as Grafana reads them.

use std::fmt::Display;

use serde_json::{Value, json};

/// One panel. Its description says what is good, and what to do when it is not.
#[derive(Debug)]
pub(crate) struct Panel {
    title: &'static str,
    description: &'static str,
    shape: Shape,
    unit: Unit,
    width: u32,
    /// Where a line is drawn and values turn red.
    limit: Option<f64>,
    queries: Vec<(String, String)>,
}

/// Panels under one heading.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Panel>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    Lines,
    Stacked,
    Number,
    Table,
    Heatmap,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    PerSecond,
    Count,
    Part,
    Bytes,
}

/// The width of Grafana's grid, and the height of every panel in it.
pub(crate) const WIDTH: u32 = 24;
pub(crate) const HEIGHT: u32 = 8;

impl Panel {
    pub(crate) fn new(title: &'static str, shape: Shape, unit: Unit, description: &'static str) -> Self {
        Self { title, description, shape, unit, width: 8, limit: None, queries: Vec::new() }
    }

    pub(crate) fn lines(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self::new(title, Shape::Lines, unit, description)
    }

    pub(crate) fn stacked(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self::new(title, Shape::Stacked, unit, description)
    }

    pub(crate) fn width(self, width: u32) -> Self {
        Self { width, ..self }
    }

    pub(crate) fn limit(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    pub(crate) fn query(mut self, expression: impl Display, legend: impl Into<String>) -> Self {
        self.queries.push((expression.to_string(), legend.into()));
        self
    }

    pub(crate) fn columns(&self) -> u32 {
        self.width
    }

    pub(crate) fn expressions(&self) -> impl Iterator<Item = &str> {
        self.queries.iter().map(|(expression, _)| expression.as_str())
    }

    /// The panel at a place of the grid.
    pub(crate) fn json(&self, id: u32, x: u32, y: u32) -> Value {
        let (kind, format) = match self.shape {
            Shape::Lines | Shape::Stacked => ("timeseries", "time_series"),
            Shape::Number => ("stat", "time_series"),
            Shape::Table => ("table", "table"),
            Shape::Heatmap => ("heatmap", "heatmap"),
        };
        let is_instant = self.shape == Shape::Table;
        let targets = self.queries.iter().zip('A'..).map(|((expression, legend), reference)| {
            json!({
                "refId": reference, "datasource": datasource(), "expr": expression, "legendFormat": legend,
                "editorMode": "code", "format": format, "instant": is_instant, "range": !is_instant,
            })
        });
        let targets: Vec<Value> = targets.collect();
        json!({
            "id": id, "type": kind, "title": self.title, "description": self.description, "datasource": datasource(),
            "gridPos": {"x": x, "y": y, "w": self.width, "h": HEIGHT},
            "fieldConfig": {"defaults": self.defaults(), "overrides": []},
            "options": self.options(),
            "targets": targets,
        })
    }

    fn defaults(&self) -> Value {
        let mut steps = vec![json!({"color": "green", "value": null})];
        steps.extend(self.limit.map(|limit| json!({"color": "red", "value": limit})));
        let mut defaults = json!({
            "unit": self.unit.id(), "min": 0, "thresholds": {"mode": "absolute", "steps": steps},
        });
        if matches!(self.shape, Shape::Lines | Shape::Stacked) {
            let is_stacked = self.shape == Shape::Stacked;
            defaults["custom"] = json!({
                "fillOpacity": if is_stacked { 40 } else { 0 },
                "stacking": {"mode": if is_stacked { "normal" } else { "none" }, "group": "A"},
                "showPoints": "never",
                "thresholdsStyle": {"mode": if self.limit.is_some() { "line" } else { "off" }},
            });
        }
        defaults
    }

    fn options(&self) -> Value {
        match self.shape {
            Shape::Lines | Shape::Stacked => json!({
                "legend": {"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["mean", "max", "lastNotNull"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Shape::Number => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "colorMode": "value", "graphMode": "area", "textMode": "value_and_name",
            }),
            Shape::Table => json!({"showHeader": true, "cellHeight": "sm"}),
            Shape::Heatmap => json!({
                "calculate": false, "yAxis": {"unit": self.unit.id()}, "color": {"mode": "scheme", "scheme": "Turbo"},
                "tooltip": {"mode": "single", "yHistogram": true},
            }),
        }
    }
}

impl Unit {
    fn id(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::PerSecond => "ops",
            Self::Count => "short",
            Self::Part => "percentunit",
            Self::Bytes => "bytes",
        }
    }
}

/// What the variable chose.
pub(crate) fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}
