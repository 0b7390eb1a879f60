//! Huge pages for the memory of a process that is to be copied: fork(2) copies page tables, and those of
//! huge pages are 512 times smaller.

use std::fs;
use std::io::Result;
use std::ops::Range;

/// See madvise(2). Since Linux 6.1, and not in every version of the libc crate.
const MADV_COLLAPSE: libc::c_int = 25;

/// Has the kernel put this process's own memory into huge pages, if there is at least so much of it.
///
/// Does what is possible: systems before Linux 6.1 refuse, and there may be no huge pages. What is in memory
/// now takes no more than before, but for the rest of pages that are in use in part.
pub(crate) fn use_huge_pages(at_least: u64) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    if anonymous_memory(&status).is_none_or(|bytes| bytes < at_least) {
        return Ok(());
    }
    let size = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")?;
    let Ok(size) = size.trim().parse::<usize>() else {
        return Ok(());
    };
    for range in fs::read_to_string("/proc/self/maps")?
        .lines()
        .filter_map(own_memory)
    {
        let (start, end) = (range.start.next_multiple_of(size), range.end / size * size);
        if start < end {
            let at = std::ptr::without_provenance_mut(start);
            // SAFETY: the contents of the memory stay the same, whatever is there by now.
            let _ = unsafe { libc::madvise(at, end - start, MADV_COLLAPSE) };
        }
    }
    Ok(())
}

/// How many bytes are in memory that belong to no file, as `/proc/self/status` says.
fn anonymous_memory(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// The range of a line of `/proc/self/maps`, if it is memory that belongs to no file and is not shared.
fn own_memory(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, access) = (words.next()?, words.next()?);
    let (_offset, _device, inode) = (words.next()?, words.next()?, words.next()?);
    let is_special = words
        .next()
        .is_some_and(|name| name != "[heap]" && !name.starts_with("[anon:"));
    if access != "rw-p" || inode != "0" || is_special {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_no_file_is_found() {
        let own = |line| own_memory(line).map(|range| (range.start, range.end));
        for (line, found) in [
            ("7f00-7f80 rw-p 00000000 00:00 0 ", Some((0x7f00, 0x7f80))),
            (
                "5500-5600 rw-p 00000000 00:00 0                [heap]",
                Some((0x5500, 0x5600)),
            ),
            (
                "5500-5600 rw-p 00000000 00:00 0 [anon:arena 1]",
                Some((0x5500, 0x5600)),
            ),
            ("5500-5600 rw-p 00000000 00:00 0 [stack]", None),
            ("5500-5600 r--p 00000000 00:00 0 ", None),
            ("5500-5600 rw-s 00000000 00:00 0 ", None),
            ("5500-5600 rw-p 00000000 fe:00 77 /lib/libc.so", None),
            ("5500-5600 rw-p", None),
            ("", None),
        ] {
            assert_eq!(own(line), found, "{line}");
        }
        let status = "VmRSS:\t 9 kB\nRssAnon:\t    1234 kB\nRssFile:\t 1 kB\n";
        assert_eq!(anonymous_memory(status), Some(1234 << 10));
        assert_eq!(anonymous_memory("RssAnon: x kB"), None);
    }
}
