//! What a login shows on a terminal beyond plain lines.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

/// How a login is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// A file, a pipe, a service's log: lines that stay.
    Plain,
    /// A terminal: a QR code, and a line that is redrawn while waiting.
    Terminal,
    /// What one has to do, and no word more.
    Quiet,
}

/// The widest QR code that is shown, in columns.
const MAX_COLUMNS: usize = 78;

/// Takes back the line that is being redrawn.
pub const CLEAR: &str = "\r\x1b[K";

/// A QR code of an address in half blocks, two modules to a character, or nothing when it would
/// not fit. Its light modules are the drawn ones, as a dark terminal needs it; on a light one it
/// is inverted, which scanners read as well.
pub fn qr(address: &str) -> Option<String> {
    let code = QrCode::new(address).ok()?;
    let drawn = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build();
    let columns = drawn.lines().map(|line| line.chars().count()).max()?;
    (columns <= MAX_COLUMNS).then_some(drawn)
}

/// The line that is redrawn, with the time left in seconds.
pub fn waiting(left_s: u64) -> String {
    let (minutes, seconds) = (left_s / 60, left_s % 60);
    format!("{CLEAR}waiting for your approval: {minutes} min {seconds:02} s left ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_a_code_that_fits_or_none() {
        let code = qr("https://accounts.example/device?user_code=ABCD-EFGH").unwrap();
        let columns: Vec<usize> = code.lines().map(|line| line.chars().count()).collect();
        // Version 4: 33 modules and a quiet zone of 4 on each side, two rows to a line.
        assert!(columns.iter().all(|&columns| columns == 41), "{columns:?}");
        assert_eq!(columns.len(), 21);
        assert!(code.chars().all(|char| " \n█▀▄".contains(char)), "{code}");
        assert_eq!(code.lines().next().unwrap().chars().next(), Some('█'));
        assert_eq!(qr(&format!("https://id.example/{}", "x".repeat(490))), None);
    }

    #[test]
    fn the_time_left_is_told_in_one_line() {
        assert_eq!(waiting(598), "\r\x1b[Kwaiting for your approval: 9 min 58 s left ");
        assert_eq!(waiting(5), "\r\x1b[Kwaiting for your approval: 0 min 05 s left ");
    }
}
