//! A view, put on a screen: no decisions but where things have room, which `fit` makes.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::Widget;

use super::fit::{self, Span};
use super::view::{Table, Tone, View, Width};

const TITLE: Style = Style::new().add_modifier(Modifier::BOLD);
const HEAD: Style = Style::new().add_modifier(Modifier::REVERSED);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const FAULT: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

impl Widget for &View {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let mut page = Page { area, buffer, line: 0 };
        let width = usize::from(area.width);
        page.text(&self.title, TITLE);
        self.faults.iter().for_each(|fault| page.text(fault, FAULT));
        fit::flow(&self.summary, width).iter().for_each(|line| page.text(line, Style::new()));
        let heads = self.tables.len() * fit::HEADS;
        let room = usize::from(area.height).saturating_sub(page.line + heads);
        let lines = fit::share(self.tables.each_ref().map(fit::lines), room);
        for ((table, spans), lines) in self.tables.iter().zip(fit::spans(self, width)).zip(lines) {
            page.table(table, &spans, lines);
        }
    }
}

/// The frame as plain text, everything in it.
pub(super) fn plain(view: &View) -> String {
    let (width, height) = fit::natural(view);
    let side = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let area = Rect::new(0, 0, side(width), side(height));
    let mut buffer = Buffer::empty(area);
    view.render(area, &mut buffer);
    let rows = buffer.content.chunks(usize::from(area.width));
    let line = |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    rows.map(|row| format!("{}\n", line(row).trim_end())).collect()
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
    }
}

/// The screen and the next line to write on.
struct Page<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
    line: usize,
}

impl Page<'_> {
    fn text(&mut self, text: &str, style: Style) {
        self.cell(text, (0, usize::from(self.area.width)), style);
        self.line += 1;
    }

    fn table(&mut self, table: &Table, spans: &[Span], lines: usize) {
        let columns = || table.columns.iter().zip(spans);
        for (column, (x, _)) in columns() {
            self.cell(column.over, (*x, usize::MAX), DIM);
        }
        self.line += 1;
        self.cell(&" ".repeat(self.area.width.into()), (0, self.area.width.into()), HEAD);
        for (column, span) in columns() {
            self.aligned(column.head, column.width, *span, HEAD);
        }
        self.line += 1;
        let (rows, hidden) = fit::visible(&table.rows, lines);
        for row in rows {
            for ((column, span), cell) in columns().zip(&row.cells) {
                self.aligned(cell, column.width, *span, style(row.tone));
            }
            self.line += 1;
        }
        if lines > 0 && hidden > 0 {
            self.text(&format!("... {hidden} more"), DIM);
        } else if lines > 0 && table.rows.is_empty() {
            self.text(table.empty, DIM);
        }
    }

    fn aligned(&mut self, text: &str, width: Width, span: Span, style: Style) {
        let text = fit::cut(text, span.1);
        let before = match width {
            Width::Number(_) => span.1.saturating_sub(text.chars().count()),
            Width::Name | Width::Text(_) | Width::Rest => 0,
        };
        self.cell(&text, (span.0 + before, span.1 - before), style);
    }

    /// Writes within the screen only, and no control characters: the buffer leaves those out.
    fn cell(&mut self, text: &str, (x, width): Span, style: Style) {
        let room = usize::from(self.area.width).saturating_sub(x);
        if self.line < usize::from(self.area.height) && room > 0 {
            let text = fit::cut(text, width.min(room));
            // Both are within the area, whose sides are of 16 bits.
            let (x, y) = (self.area.x + x as u16, self.area.y + self.line as u16);
            self.buffer.set_stringn(x, y, text, width.min(room), style);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{answer, busy, read, snapshot};
    use super::super::snapshot::{Answer, Snapshot, Worker};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| frame.render_widget(view, frame.area())).unwrap();
        terminal.backend().to_string().lines().map(|line| format!("{}\n", line.trim_matches('"').trim_end())).collect()
    }

    fn view() -> View {
        let missing = vec!["models are not loaded yet".into()];
        let starting = Answer { ready: false, missing, uptime_s: 1.0, ..answer("gpu-7-0") };
        let odd = Worker::Unreadable { name: "?".into(), why: "expected value at line 1 column 1".into() };
        let earlier = snapshot(100, vec![read(busy("gpu-3-0", 100)), read(busy("gpu-3-1", 10))]);
        let workers = vec![read(busy("gpu-3-0", 102)), read(busy("gpu-3-1", 12)), read(starting), odd];
        View::new("infer", Some(&earlier), &snapshot(102, workers))
    }

    #[test]
    fn the_whole_screen() {
        assert_eq!(screen(&view(), 80, 24), include_str!("screen.txt"));
    }

    #[test]
    fn rows_that_have_no_room_are_counted() {
        let workers = (10..30).map(|index| read(busy(&format!("gpu-{index}"), 100))).collect();
        let screen = screen(&View::new("infer", None, &snapshot(100, workers)), 80, 18);
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!((lines.len(), lines[17]), (18, "... 15 more"), "{screen}");
        assert!(lines[16].starts_with("gpu-14 "), "{screen}");
    }

    #[test]
    fn no_screen_is_too_small() {
        let mut view = view();
        view.faults.push("a fault".into());
        for (width, height) in [(1, 1), (3, 40), (200, 2), (20, 10), (79, 23)] {
            screen(&view, width, height);
        }
        screen(&View::blank("infer"), 80, 5);
    }

    #[test]
    fn plain_text_holds_everything_and_no_control_characters() {
        let mut long = answer("a-worker-with-a-name-that-is-rather-long");
        (long.ready, long.missing) = (false, vec!["\u{1b}[2Jresults cannot be stored: ".repeat(3)]);
        let workers = (10..60).map(|index| read(busy(&format!("gpu-{index}"), 100))).chain([read(long)]).collect();
        let text = plain(&View::new("infer", None, &snapshot(100, workers)));
        assert!(!text.contains("more") && !text.contains('…') && !text.contains('\u{1b}'), "{text}");
        for says in ["gpu-10 ", "gpu-59 ", "a-worker-with-a-name-that-is-rather-long "] {
            assert!(text.contains(says), "{says} is missing in\n{text}");
        }
        assert!(plain(&View::new("infer", None, &Snapshot::default())).contains("no worker answered"));
    }
}
