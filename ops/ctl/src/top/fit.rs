//! Which part of a view has room on a screen. Widths are in characters: names of models are ASCII, and a wide one of a
//! worker is cut by the terminal's own measure while drawing.

use super::view::{Row, Table, View, Width};

/// Between two columns.
const GAP: usize = 1;

/// Between two items of the summary.
const ITEM_GAP: &str = "   ";

/// Lines of a table besides its rows: one that separates, one of heads.
pub(super) const HEADS: usize = 2;

/// Least and most columns of a frame that is not bound to a terminal.
const PLAIN: (usize, usize) = (80, 400);

/// Where a column begins and how wide it is.
pub(super) type Span = (usize, usize);

/// The summary in lines of at most `width`.
pub(super) fn flow(items: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if length(line) + ITEM_GAP.len() + length(item) <= width => {
                line.push_str(ITEM_GAP);
                line.push_str(item);
            }
            _ => lines.push(item.clone()),
        }
    }
    lines
}

/// How many lines each table gets for its rows. Nobody gets more than wanted; where there is too little room the small
/// ones keep theirs and the large ones share the rest.
pub(super) fn share(wanted: [usize; 3], room: usize) -> [usize; 3] {
    let mut given = [0; 3];
    for _ in 0..room {
        let open = (0..3).filter(|index| given[*index] < wanted[*index]).min_by_key(|index| given[*index]);
        let Some(index) = open else { break };
        given[index] += 1;
    }
    given
}

/// The rows to show on so many lines, and how many are hidden: then the last line is needed to say so.
pub(super) fn visible(rows: &[Row], lines: usize) -> (&[Row], usize) {
    if rows.len() <= lines {
        return (rows, 0);
    }
    let shown = lines.saturating_sub(1);
    (&rows[..shown], rows.len() - shown)
}

/// Columns of all tables on a screen of this width. The names get what the widest table leaves them.
pub(super) fn spans(view: &View, width: usize) -> [Vec<Span>; 3] {
    let needed = |table: &Table| {
        let others = table.columns.iter().filter(|column| column.width != Width::Name);
        others.map(|column| GAP + least(column.width, column.head)).sum::<usize>()
    };
    let left = view.tables.iter().map(needed).max().map_or(width, |needed| width.saturating_sub(needed));
    let name = longest_name(view).min(left);
    view.tables.each_ref().map(|table| {
        let mut spans = Vec::new();
        let mut x = 0;
        for column in table.columns {
            let wide = match column.width {
                Width::Name => name,
                Width::Text(wide) | Width::Number(wide) => wide,
                Width::Rest => width.saturating_sub(x),
            };
            spans.push((x, wide));
            x += wide + GAP;
        }
        spans
    })
}

/// Columns and lines that show everything, for a frame that is not bound to a terminal.
pub(super) fn natural(view: &View) -> (usize, usize) {
    let name = longest_name(view);
    let table = |table: &Table| {
        let columns = table.columns.iter().enumerate().map(|(index, column)| {
            let cells = table.rows.iter().map(|row| length(&row.cells[index]));
            match column.width {
                Width::Name => name,
                Width::Rest => cells.max().unwrap_or(0).max(column.head.len()) + GAP,
                Width::Text(wide) | Width::Number(wide) => wide + GAP,
            }
        });
        columns.sum::<usize>()
    };
    let texts = view.faults.iter().chain([&view.title]).map(|text| length(text));
    let width = texts.chain(view.tables.iter().map(table)).max().unwrap_or(0).clamp(PLAIN.0, PLAIN.1);
    let rows: usize = view.tables.iter().map(|table| HEADS + lines(table)).sum();
    (width, 1 + view.faults.len() + flow(&view.summary, width).len() + rows)
}

/// Lines that a table's rows want.
pub(super) fn lines(table: &Table) -> usize {
    table.rows.len().max(1)
}

/// A text on so many columns, with a sign where it was cut.
pub(super) fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn longest_name(view: &View) -> usize {
    let names = view.tables.iter().flat_map(|table| &table.rows).filter_map(|row| row.cells.first());
    let heads = view.tables.iter().filter_map(|table| table.columns.first());
    names.map(|name| length(name)).chain(heads.map(|column| column.head.len())).max().unwrap_or(0)
}

/// Room that a column cannot do without.
fn least(width: Width, head: &str) -> usize {
    match width {
        Width::Name => 0,
        Width::Text(wide) | Width::Number(wide) => wide,
        Width::Rest => head.len(),
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::view::Tone;

    #[test]
    fn the_summary_flows_into_lines() {
        let items = ["jobs 1", "results 2", "dead letters 3"].map(str::to_owned);
        assert_eq!(flow(&items, 80), ["jobs 1   results 2   dead letters 3"]);
        assert_eq!(flow(&items, 18), ["jobs 1   results 2", "dead letters 3"]);
        assert_eq!(flow(&items, 3).len(), 3);
        assert!(flow(&[], 80).is_empty());
    }

    #[test]
    fn small_tables_keep_their_rows_and_large_ones_share_the_rest() {
        assert_eq!(share([4, 2, 3], 100), [4, 2, 3]);
        assert_eq!(share([40, 2, 30], 12), [5, 2, 5]);
        assert_eq!(share([40, 2, 30], 2), [1, 1, 0]);
        assert_eq!(share([1, 1, 1], 0), [0, 0, 0]);
    }

    #[test]
    fn hidden_rows_are_counted_on_the_last_line() {
        let rows = vec![Row { cells: vec![], tone: Tone::Plain }; 5];
        let seen = |lines| (visible(&rows, lines).0.len(), visible(&rows, lines).1);
        assert_eq!([seen(5), seen(4), seen(1), seen(0)], [(5, 0), (3, 2), (0, 5), (0, 5)]);
    }

    #[test]
    fn a_cut_text_says_so() {
        assert_eq!([cut("model", 5), cut("model", 4), cut("model", 1)], ["model", "mod…", "…"]);
    }
}
