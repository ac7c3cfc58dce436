//! The plots of the README. Everywhere a variant has the same colour, and a line goes from the least
//! to the greatest of all rounds. They are dark where the reader's browser is.

use anyhow::{Context as _, Result};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::numbers::{Spread, with_commas};
use crate::published::{self, Results};
use crate::requests::{self, CONNECTIONS, Load};
use crate::streams;
use crate::variant::Kind;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 860;
/// Of the title, and of a legend.
const LINE: u32 = 34;
const MARGIN: i32 = 16;

/// The backend writes sizes in pixels that are smaller by a quarter.
const TITLE_SIZE: i32 = 20;
const TEXT_SIZE: i32 = 15;

const PAPER: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
const INK: RGBColor = RGBColor(0x1F, 0x23, 0x28);
const GRID: RGBColor = RGBColor(0xD1, 0xD9, 0xE0);

/// What takes the place of these three on a dark page.
const DARK: &str = r##"<style>@media (prefers-color-scheme: dark) {
[fill="#FFFFFF"] { fill: #0D1117 }
[fill="#1F2328"] { fill: #E6EDF3 }
[stroke="#1F2328"] { stroke: #E6EDF3 }
[stroke="#D1D9E0"] { stroke: #3D444D }
}</style>
"##;

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Bare => RGBColor(0x8B, 0x94, 0x9E),
        Kind::Empty => RGBColor(0x4C, 0x8E, 0xDA),
        Kind::TwoPlaces => RGBColor(0xE0, 0x53, 0x2F),
        Kind::WithUsage => RGBColor(0xE8, 0xA3, 0x3D),
        Kind::OnePlace => RGBColor(0xC4, 0x5C, 0x9A),
        Kind::Native => RGBColor(0x2F, 0x9E, 0x77),
        Kind::Sidecar => RGBColor(0x83, 0x6F, 0xD0),
        Kind::FastApi | Kind::Price(..) => RGBColor(0xA5, 0x7A, 0x4E),
    }
}

/// All plots, with the names of their files.
pub fn all(results: &Results) -> Result<[(&'static str, String); 4]> {
    Ok([
        ("cpu.svg", cpu(results)?),
        ("loads.svg", loads(results)?),
        ("latency.svg", latency(results)?),
        ("streams.svg", streams(results)?),
    ])
}

fn cpu(results: &Results) -> Result<String> {
    // The one in Python would leave the others no room; the table has it.
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::FastApi);
    let bar = |kind| Ok((kind, results.row(kind, requests::RATIOS)?.cpu_us_per_request));
    let bars: Vec<(Kind, Spread)> = kinds.map(bar).collect::<Result<_>>()?;
    let most = bars.iter().map(|(_, spread)| spread.max).fold(0.0, f64::max);
    let title = "CPU time of a request in µs (HTTP/1.1, plain API, 16 connections)";
    canvas(320, title, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_right(2 * MARGIN)
            .x_label_area_size(LINE)
            .y_label_area_size(220)
            .build_cartesian_2d(0.0..most * 1.15, 0.0..bars.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(text(HPos::Center, VPos::Top))
            .x_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        let plot = chart.plotting_area();
        for ((kind, spread), place) in bars.iter().rev().zip(0..) {
            let (bottom, middle) = (f64::from(place) + 0.2, f64::from(place) + 0.5);
            let bar = [(0.0, bottom), (spread.median, bottom + 0.6)];
            plot.draw(&Rectangle::new(bar, colour(*kind).filled()))?;
            let line = vec![(spread.min, middle), (spread.max, middle)];
            plot.draw(&PathElement::new(line, INK.stroke_width(2)))?;
            let name = Text::new(kind.name(), (-8, 0), text(HPos::Right, VPos::Center));
            plot.draw(&(EmptyElement::at((0.0, middle)) + name))?;
            let value = format!("{:.0}", spread.median);
            let value = Text::new(value, (8, 0), text(HPos::Left, VPos::Center));
            plot.draw(&(EmptyElement::at((spread.max, middle)) + value))?;
        }
        Ok(())
    })
}

fn loads(results: &Results) -> Result<String> {
    const KINDS: [Kind; 5] =
        [Kind::Bare, Kind::Empty, Kind::Native, Kind::TwoPlaces, Kind::WithUsage];
    let column = |load: Load| {
        let place = |kind| Ok(Mark::full(kind, results.row(kind, load)?.cpu_us_per_request));
        let mut label = load.connections.to_string();
        // The one in the middle names all of its group.
        if load.connections == requests::RATIOS.connections {
            label.push('\n');
            label.push_str(&load.transport());
        }
        Ok(Column { label, marks: KINDS.into_iter().map(place).collect::<Result<_>>()? })
    };
    let columns = requests::loads().map(column).collect::<Result<Vec<_>>>()?;
    canvas(400, "CPU time of a request in µs, by transport and connections", |area| {
        let body = legend(area, &KINDS)?;
        let most = most(&columns);
        draw_columns(&body, &columns, &KINDS, 0.0, 0.0..most, 1.0)
    })
}

fn latency(results: &Results) -> Result<String> {
    const KINDS: [Kind; 5] =
        [Kind::Bare, Kind::TwoPlaces, Kind::WithUsage, Kind::Sidecar, Kind::FastApi];
    let column = |connections: usize| {
        let mut marks = Vec::new();
        for kind in KINDS {
            let row = results.row(kind, Load { connections, ..requests::RATIOS })?;
            marks.extend([Mark::full(kind, row.p50_us), Mark::hollow(kind, row.p99_us)]);
        }
        Ok(Column { label: counted(connections, "connection"), marks })
    };
    let columns = CONNECTIONS.map(column).into_iter().collect::<Result<Vec<_>>>()?;
    let title = "Latency in ms, p50 (full) and p99 (hollow); HTTP/1.1, plain API; logarithmic";
    canvas(400, title, |area| {
        let body = legend(area, &KINDS)?;
        draw_columns(&body, &columns, &KINDS, least(&columns), logarithmic(&columns), 1000.0)
    })
}

fn streams(results: &Results) -> Result<String> {
    let columns = |mark: fn(&published::Streams, Kind) -> Vec<Mark>| {
        let column = |streams: usize| {
            let mut marks = Vec::new();
            for kind in streams::KINDS {
                marks.extend(mark(results.stream(kind, streams)?, kind));
            }
            Ok(Column { label: counted(streams, "stream"), marks })
        };
        streams::STREAMS.map(column).into_iter().collect::<Result<Vec<_>>>()
    };
    let rates = columns(|row, kind| vec![Mark::full(kind, row.events_per_s)])?;
    let delays = columns(|row, kind| {
        vec![Mark::full(kind, row.delay_p50_us), Mark::hollow(kind, row.delay_p99_us)]
    })?;
    canvas(420, "Streams (SSE), an event at a time on each", |area| {
        let body = legend(area, &streams::KINDS)?;
        let (left, right) = body.split_horizontally(WIDTH / 2);
        let plot = subtitled(&left, "Events per second, one after the other")?;
        draw_columns(&plot, &rates, &streams::KINDS, 0.0, 0.0..most(&rates), 1.0)?;
        let subtitle = "Latency of an event in ms, p50 (full) and p99 (hollow); logarithmic";
        let plot = subtitled(&right, subtitle)?;
        draw_columns(&plot, &delays, &streams::KINDS, least(&delays), logarithmic(&delays), 1000.0)
    })
}

fn counted(number: usize, what: &str) -> String {
    format!("{} {what}{}", with_commas(number as f64), if number == 1 { "" } else { "s" })
}

/// What stands above one place of the axis.
struct Column {
    label: String,
    marks: Vec<Mark>,
}

struct Mark {
    kind: Kind,
    spread: Spread,
    hollow: bool,
}

impl Mark {
    fn full(kind: Kind, spread: Spread) -> Self {
        Self { kind, spread, hollow: false }
    }

    fn hollow(kind: Kind, spread: Spread) -> Self {
        Self { kind, spread, hollow: true }
    }
}

fn most(columns: &[Column]) -> f64 {
    let marks = columns.iter().flat_map(|column| &column.marks);
    marks.map(|mark| mark.spread.max).fold(0.0, f64::max) * 1.05
}

/// Where a logarithmic axis begins.
fn least(columns: &[Column]) -> f64 {
    let marks = columns.iter().flat_map(|column| &column.marks);
    marks.map(|mark| mark.spread.min).fold(f64::MAX, f64::min) / 1.5
}

fn logarithmic(columns: &[Column]) -> LogCoord<f64> {
    (least(columns)..most(columns) * 1.4).log_scale().into()
}

/// Gives what is below the subtitle.
fn subtitled<'a>(area: &Area<'a>, subtitle: &str) -> Result<Area<'a>> {
    area.draw_text(subtitle, &text(HPos::Left, VPos::Top), (MARGIN, 0))?;
    Ok(area.split_vertically(LINE).1)
}

/// Draws under a title, on paper.
fn canvas(height: u32, title: &str, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    root.fill(&PAPER)?;
    let bold = ("sans-serif", TITLE_SIZE, FontStyle::Bold, &INK).into_text_style(&root);
    root.draw_text(title, &bold, (MARGIN, MARGIN / 2))?;
    let (_, body) = root.split_vertically(LINE);
    draw(&body)?;
    root.present()?;
    drop((root, body));
    let (head, rest) = svg.split_once('\n').context("an SVG has lines")?;
    Ok(format!("{head}\n{DARK}{rest}"))
}

fn text(horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let font = TextStyle::from(("sans-serif", TEXT_SIZE).into_font());
    font.color(&INK).pos(Pos::new(horizontal, vertical))
}

/// Names the colours in a line; gives what is below it.
fn legend<'a>(area: &Area<'a>, kinds: &[Kind]) -> Result<Area<'a>> {
    let mut x = MARGIN;
    for kind in kinds {
        area.draw(&Circle::new((x + 5, 14), 5, colour(*kind).filled()))?;
        area.draw_text(kind.name(), &text(HPos::Left, VPos::Center), (x + 16, 14))?;
        // As wide as a letter is on average; no font is at hand.
        x += 16 + 13 * i32::try_from(kind.name().len())? / 2 + MARGIN;
    }
    Ok(area.split_vertically(LINE).1)
}

/// Draws marks, those of a variant above each other. `floor` is where `range` begins; the axis tells
/// values in so many of their `unit`.
fn draw_columns<R>(
    area: &Area<'_>,
    columns: &[Column],
    kinds: &[Kind],
    floor: f64,
    range: R,
    unit: f64,
) -> Result<()>
where
    R: AsRangedCoord<Value = f64>,
    R::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin_right(MARGIN)
        .margin_top(MARGIN / 2)
        .x_label_area_size(LINE + 10)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..columns.len() as f64, range)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_labels(6)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .label_style(text(HPos::Right, VPos::Center))
        .y_label_formatter(&|value| with_commas((value / unit * 1000.0).round() / 1000.0))
        .draw()?;
    let plot = chart.plotting_area();
    let step = 0.7 / kinds.len() as f64;
    for (column, left) in columns.iter().zip(0..) {
        let middle = f64::from(left) + 0.5;
        for (line, y) in column.label.lines().zip([8, 26]) {
            let label = Text::new(line.to_owned(), (0, y), text(HPos::Center, VPos::Top));
            plot.draw(&(EmptyElement::at((middle, floor)) + label))?;
        }
        for mark in &column.marks {
            let place = kinds.iter().position(|kind| *kind == mark.kind).unwrap_or_default();
            let x = middle + (place as f64 - (kinds.len() - 1) as f64 / 2.0) * step;
            let Spread { median, min, max } = mark.spread;
            let colour = colour(mark.kind);
            plot.draw(&PathElement::new(vec![(x, min), (x, max)], colour.stroke_width(2)))?;
            let style = if mark.hollow { PAPER.filled() } else { colour.filled() };
            plot.draw(&Circle::new((x, median), 4, style))?;
            plot.draw(&Circle::new((x, median), 4, colour.stroke_width(2)))?;
        }
    }
    Ok(())
}
