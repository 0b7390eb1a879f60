//! Thumbnails of image files, some of them hostile: decoded and resized by a pool of children, with types for the
//! request, the reply, the error, and what children tell meanwhile.
//!
//! ```text
//! cargo run --features compact --example thumbnails             # makes some files, good and bad ones
//! cargo run --features compact --example thumbnails -- FILE...  # PNG and JPEG files
//! ```
//!
//! Writes one image with all of them, `offspring-thumbnails.png` in the directory for temporary files,
//! where a file without a thumbnail is a red square. Exits with status 1 if there is any.

use image::imageops::overlay;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};
use offspring::{BoxError, Caller, Compact, Lend, Lent, Limit, Service, Worker};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fmt, fs, io};

/// How many pixels a thumbnail has, at most, in each direction.
const SIZE: u32 = 128;

/// How many bytes an image may have in memory.
const MAX_BYTES: u64 = 256 << 20;

/// In `Json`, pixels would take several times as many bytes.
type Thumbnail = Service<Compact, Lent<Job<'static>>, Thumb, Bad>;

const THUMBNAIL: Thumbnail = Service::new("thumbnail");

/// What a child is doing, and with which file.
const STEP: Service<Compact, (PathBuf, Step), ()> = Service::new("step");

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Job<'a> {
    #[serde(borrow)]
    path: &'a Path,
    size: u32,
}

impl Lend for Job<'static> {
    type Of<'a> = Job<'a>;
}

/// Pixels, so that the parent need not decode anything.
#[derive(Serialize, Deserialize)]
struct Thumb {
    width: u32,
    height: u32,
    rgba: Vec<u8>,
}

#[derive(Serialize, Deserialize, Debug)]
enum Bad {
    Unreadable(String),
    Corrupt(String),
    TooBig { width: u32, height: u32 },
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Bad::Corrupt(error) => write!(f, "corrupt: {error}"),
            Bad::TooBig { width, height } => write!(f, "{width} x {height} pixels are too many"),
        }
    }
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Bad::Unreadable(error.to_string())
    }
}

impl From<ImageError> for Bad {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Unsupported(error) => Bad::Unreadable(error.to_string()),
            error => Bad::Corrupt(error.to_string()),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Step {
    Decoding { width: u32, height: u32 },
    Resizing,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Decoding { width, height } => write!(f, "decoding {width} x {height} pixels"),
            Step::Resizing => f.write_str("resizing"),
        }
    }
}

/// Runs in a child.
fn thumbnail(job: Job<'_>, caller: &Caller<Thumbnail>) -> Result<Thumb, Bad> {
    let tell = |step| caller.tell(STEP, (job.path.to_owned(), step));
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::open(job.path)?.with_guessed_format()?;
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;

    let (width, height) = decoder.dimensions();
    tell(Step::Decoding { width, height });
    let image = limits
        .reserve(decoder.total_bytes())
        .and_then(|()| decoder.set_limits(limits))
        .and_then(|()| DynamicImage::from_decoder(decoder))
        .map_err(|error| match error {
            ImageError::Limits(_) => Bad::TooBig { width, height },
            error => error.into(),
        })?;

    tell(Step::Resizing);
    let rgba = image
        .thumbnail(width.min(job.size), height.min(job.size))
        .into_rgba8();
    Ok(Thumb {
        width: rgba.width(),
        height: rgba.height(),
        rgba: rgba.into_raw(),
    })
}

fn main() -> Result<ExitCode, BoxError> {
    let me = Worker::new().function(THUMBNAIL, thumbnail).run();

    let mut paths: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let album = paths.is_empty().then(Album::make).transpose()?;
    if let Some(album) = &album {
        paths = album.files().to_vec();
    }

    let bar = ProgressBar::new(paths.len() as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} {wide_msg}",
    )?);
    let steps = bar.clone();
    let pool = me
        .limit(Limit::Memory(4 * MAX_BYTES)) // a decoder may take more than it is allowed
        .pool(THUMBNAIL)
        .max(offspring::cores().get())
        .grow_after(Duration::ZERO)
        .load(1) // some files take much longer than others
        .call_timeout(Duration::from_secs(60))
        .kill_stuck(Duration::from_secs(1))
        .on_ask(STEP, move |(path, step)| {
            show(&steps, &path, step);
            Ok(())
        })
        .start()?;

    let jobs = paths.iter().map(|path| Job { path, size: SIZE });
    let mut thumbs = HashMap::new();
    for (job, outcome) in pool.map_unordered(jobs).progress_with(bar.clone()) {
        let line = match &outcome {
            Ok(thumb) => format!("{} x {} pixels", thumb.width, thumb.height),
            Err(error) => error.to_string(),
        };
        bar.suspend(|| println!("{}: {line}", job.path.display()));
        if let Ok(thumb) = outcome {
            thumbs.insert(job.path, thumb);
        }
    }
    bar.finish_and_clear();
    pool.finish()?;

    let thumbs: Vec<_> = paths
        .iter()
        .map(|path| thumbs.get(path.as_path()))
        .collect();
    let sheet = env::temp_dir().join("offspring-thumbnails.png");
    contact_sheet(&thumbs).save(&sheet)?;
    let good = thumbs.iter().flatten().count();
    let all = thumbs.len();
    println!("{}: {good} of {all} thumbnails", sheet.display());
    Ok(ExitCode::from(u8::from(good < all)))
}

/// Shows it in the bar, or as a line if there is no terminal for a bar.
fn show(bar: &ProgressBar, path: &Path, step: Step) {
    let line = format!("{}: {step}", path.display());
    if bar.is_hidden() {
        println!("{line}");
    } else {
        bar.set_message(line);
    }
}

/// Thumbnails in rows.
fn contact_sheet(thumbs: &[Option<&Thumb>]) -> RgbaImage {
    const CELL: u32 = SIZE + 16;
    let count = thumbs.len() as u32;
    let columns = (count - 1).isqrt() + 1;
    let (width, height) = (columns * CELL, count.div_ceil(columns) * CELL);
    let mut sheet = RgbaImage::from_pixel(width, height, Rgba([48, 48, 48, 255]));
    for (i, thumb) in (0..).zip(thumbs) {
        let thumb = thumb
            .and_then(|thumb| RgbaImage::from_raw(thumb.width, thumb.height, thumb.rgba.clone()))
            .filter(|thumb| thumb.width() <= SIZE && thumb.height() <= SIZE) // do not trust a child
            .unwrap_or_else(|| RgbaImage::from_pixel(SIZE, SIZE, Rgba([112, 32, 32, 255])));
        let left = i % columns * CELL + (CELL - thumb.width()) / 2;
        let top = i / columns * CELL + (CELL - thumb.height()) / 2;
        overlay(&mut sheet, &thumb, left.into(), top.into());
    }
    sheet
}

/// Files to try this on, good and bad ones.
struct Album(PathBuf);

impl Album {
    fn make() -> Result<Self, BoxError> {
        let name = format!("offspring-thumbnails-{}", std::process::id());
        let album = Album(env::temp_dir().join(name));
        fs::create_dir_all(&album.0)?;
        let [sunset, rings, small, corrupt, bomb] = album.files();

        let sky_and_sea = |x: u32, y: u32| match square_distance(x, y, 400, 300) {
            ..10_000 => [255, 224, 128],
            _ if y > 400 => [24, 32, (y / 8) as u8],
            _ => [(128 + y / 4) as u8, (y / 4) as u8, 96],
        };
        paint(800, 600, sky_and_sea).save(sunset)?;
        let circles = |x, y| [(square_distance(x, y, 150, 300).isqrt() * 4) as u8, 96, 160];
        paint(300, 600, circles).save(&rings)?;
        paint(100, 80, |x, y| [(x * y) as u8, 160, 96]).save(small)?;

        let whole = fs::read(rings)?;
        fs::write(corrupt, &whole[..whole.len() / 2])?;

        // A few hundred bytes that claim to be 12 GiB of pixels: five bytes after this marker, a JPEG
        // file has its height and width, of 16 bits each.
        let mut bytes = Vec::new();
        paint(8, 8, |_, _| [0; 3]).write_to(&mut io::Cursor::new(&mut bytes), ImageFormat::Jpeg)?;
        let marker = bytes.windows(2).position(|two| two == [0xff, 0xc0]);
        let size = marker.ok_or("a JPEG file without a size")? + 5;
        bytes[size..size + 4].fill(0xff);
        fs::write(bomb, bytes)?;
        Ok(album)
    }

    fn files(&self) -> [PathBuf; 5] {
        [
            "sunset.jpg",
            "rings.png",
            "small.png",
            "corrupt.png",
            "bomb.jpg",
        ]
        .map(|name| self.0.join(name))
    }
}

impl Drop for Album {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn paint(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb(colour(x, y)))
}

fn square_distance(x: u32, y: u32, x0: u32, y0: u32) -> u32 {
    x.abs_diff(x0).pow(2) + y.abs_diff(y0).pow(2)
}
