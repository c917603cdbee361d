//! The report as a picture: a bar for each contestant's median rate, and a line from its slowest run to its fastest.

use std::fmt::Write;

/// A contestant's rates on one workload, in rows per second.
pub struct Bar {
    pub name: String,
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// Pixels: of the picture, of the names on the left, of the values on the right, of a line of text, of a bar.
const WIDTH: f64 = 760.0;
const NAMES: f64 = 120.0;
const VALUES: f64 = 100.0;
const LINE: f64 = 22.0;
const THICK: f64 = 14.0;

/// An SVG document with a block for each workload. Bars of one block are of one scale.
pub fn svg(workloads: &[(String, Vec<Bar>)]) -> String {
    let lines: usize = workloads.iter().map(|(_, bars)| bars.len() + 2).sum();
    let height = LINE * (lines + 1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut y = LINE;
    for (workload, bars) in workloads {
        text(&mut svg, (8.0, y), &format!("{workload}: rows/s, medians; lines from the slowest run to the fastest"));
        y += LINE;
        let longest = bars.iter().map(|bar| bar.most).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - NAMES - VALUES) / longest;
        for bar in bars {
            row(&mut svg, y, scale, bar);
            y += LINE;
        }
        y += LINE;
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, y: f64, scale: f64, Bar { name, median, least, most }: &Bar) {
    let colour = if name == "gristmill" { "#c25e00" } else { "#8a8f98" };
    let [width, from, to] = [median, least, most].map(|rate| rate * scale);
    let middle = y - THICK / 3.0;
    text(svg, (8.0, y), name);
    let top = y - THICK + 2.0;
    add(
        svg,
        format_args!("<rect x=\"{NAMES}\" y=\"{top}\" width=\"{width:.1}\" height=\"{THICK}\" fill=\"{colour}\"/>"),
    );
    let [x1, x2] = [NAMES + from, NAMES + to];
    add(svg, format_args!("<path d=\"M{x1:.1} {middle:.1}H{x2:.1}\" stroke=\"#222\"/>"));
    text(svg, (NAMES + width.max(to) + 8.0, y), &format!("{median:.0}"));
}

/// Names are ours: there is nothing to be escaped.
fn text(svg: &mut String, (x, y): (f64, f64), text: &str) {
    add(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
}

fn add(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a string can be written to");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_its_place_and_every_contestant_has_one() {
        let bar = |name: &str, median| Bar { name: name.into(), median, least: median / 2.0, most: median };
        let svg = svg(&[("mlp".into(), vec![bar("relay", 200.0), bar("gristmill", 100.0)])]);
        let full = WIDTH - NAMES - VALUES;
        for width in [full, full / 2.0] {
            assert!(svg.contains(&format!("width=\"{width:.1}\" height=\"{THICK}\"")), "{svg}");
        }
        assert_eq!((svg.matches("<rect").count(), svg.matches("</text>").count()), (3, 5));
    }
}
