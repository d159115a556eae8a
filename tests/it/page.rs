//! The web page, in a real browser.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::browser::Page;
use crate::support::repository;
use crate::support::worker::Worker;

/// Tags that the page shows for the image at this index.
async fn tags(page: &mut Page, place: usize) -> Vec<String> {
    let names = format!("[...document.querySelectorAll('.card')[{place}].querySelectorAll('.tags .name')]");
    let tags = page.eval(&format!("{names}.map(name => name.textContent)")).await;
    serde_json::from_value(tags).expect("names")
}

fn sample(name: &str) -> PathBuf {
    repository("samples").join(name)
}

async fn add(page: &mut Page, names: &[&str]) {
    let paths: Vec<_> = names.iter().map(|name| sample(name)).collect();
    page.choose("#files", &paths.iter().map(PathBuf::as_path).collect::<Vec<_>>()).await;
}

const ALL_DONE: &str = "document.querySelectorAll('.card').length > 0 && \
                        [...document.querySelectorAll('.card .wait')].every(wait => wait.hidden)";

async fn slide(page: &mut Page, slider: &str, value: &str) {
    let event = "new Event('input', { bubbles: true })";
    page.eval(&format!(
        "(s => {{ s.value = '{value}'; s.dispatchEvent({event}); }})(document.querySelector('#{slider}'))"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_go_in_and_their_tags_are_read_off() {
    let server = Worker::serve(&[], &[]);
    assert!(server.logged("serving the API").contains(&format!("page=\"{}\"", server.url("/"))), "{}", server.log());
    let mut page = Page::open(&server.url("/")).await;
    page.look(1280, 900, "light").await;
    page.until("document.querySelectorAll('#model option').length === 1").await;
    page.picture("empty").await;
    add(&mut page, &["orange-sunset.jpg", "blue-ocean.webp", "photo-temple.jpg"]).await;
    page.until(ALL_DONE).await;
    assert!(tags(&mut page, 0).await.contains(&"orange".to_owned()));
    let blue = tags(&mut page, 1).await;
    assert!(blue.contains(&"blue".to_owned()) && blue.contains(&"cool colors".to_owned()), "{blue:?}");
    let rating = page.eval("document.querySelector('.rating .top').textContent").await;
    assert_eq!(rating, "general 0.97");
    let bar = page.eval("document.querySelector('.tags .bar').getBoundingClientRect().width").await;
    assert!(bar.as_f64() > Some(10.0), "{bar}");

    // The sliders act at once, without another request.
    let asked = server.metric("tagmill_jobs_total{source=\"http\",outcome=\"tagged\"}").await;
    slide(&mut page, "general", "0.02").await;
    let more = tags(&mut page, 1).await;
    assert!(more.len() > blue.len() && more.contains(&"red".to_owned()), "{more:?}");
    slide(&mut page, "general", "0.97").await;
    assert_eq!(tags(&mut page, 1).await, ["blue", "cool colors"]);
    assert_eq!(server.metric("tagmill_jobs_total{source=\"http\",outcome=\"tagged\"}").await, asked);
    slide(&mut page, "general", "0.35").await;

    // Copied in the format of the API.
    let copied = "(async () => { let text; navigator.clipboard.writeText = async given => { text = given; }; \
                  document.querySelectorAll('.card .copy')[1].click(); await null; return text; })()";
    assert_eq!(page.eval(copied).await, blue.join(", "));
    for (name, width, height, scheme) in [
        ("light", 1280, 900, "light"),
        ("dark", 1280, 900, "dark"),
        ("phone", 390, 844, "light"),
        ("phone-dark", 390, 844, "dark"),
    ] {
        page.look(width, height, scheme).await;
        let overflow = page.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
        assert_eq!(overflow, 0, "{name} scrolls sideways");
        page.picture(name).await;
    }
    assert_eq!(page.complaints, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_dropped_and_pasted_too() {
    let server = Worker::serve(&[], &[]);
    let mut page = Page::open(&server.url("/")).await;
    page.until("document.querySelectorAll('#model option').length === 1").await;
    let transfer = "(() => { const canvas = new OffscreenCanvas(64, 64); const brush = canvas.getContext('2d'); \
                    brush.fillStyle = COLOUR; brush.fillRect(0, 0, 64, 64); \
                    return canvas.convertToBlob().then(blob => { const files = new DataTransfer(); \
                    files.items.add(new File([blob], NAME, { type: 'image/png' })); return files; }); })()";
    for (kind, field, colour, name) in
        [("drop", "dataTransfer", "'#ff0000'", "'red.png'"), ("paste", "clipboardData", "'#0000ff'", "'blue.png'")]
    {
        let files = transfer.replace("COLOUR", colour).replace("NAME", name);
        page.eval(&format!(
            "{files}.then(files => {{ const event = new Event('{kind}', {{ cancelable: true }}); event.{field} = files; dispatchEvent(event); }})"
        ))
        .await;
    }
    page.until("document.querySelectorAll('.card').length === 2").await;
    page.until(ALL_DONE).await;
    assert!(tags(&mut page, 0).await.contains(&"red".to_owned()));
    assert!(tags(&mut page, 1).await.contains(&"blue".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_told_and_the_keyboard_is_enough() {
    let server = Worker::serve(&["--max-image-pixels", "100000"], &[]);
    let mut page = Page::open(&server.url("/")).await;
    page.look(1280, 900, "light").await;
    page.until("document.querySelectorAll('#model option').length === 1").await;
    add(&mut page, &["photo-temple.jpg"]).await;
    page.until(ALL_DONE).await;
    let error = page.eval("document.querySelector('.card .error').innerText").await;
    assert!(error.as_str().expect("text").starts_with("image_too_large "), "{error}");
    page.picture("error").await;

    // From the model on, Tab reaches every control; arrow keys move a slider.
    page.eval("document.querySelector('#model').focus()").await;
    let mut reached = Vec::new();
    for _ in 0..8 {
        page.press("Tab", 9).await;
        reached.push(page.eval("document.activeElement.id || document.activeElement.className").await);
    }
    let expected = ["files", "general", "character", "copy-all", "clear", "again", "remove"].map(Value::from);
    assert_eq!(reached[..7], expected);
    page.eval("document.querySelector('#general').focus()").await;
    let before = page.eval("Number(document.querySelector('#general').value)").await;
    page.press("ArrowRight", 39).await;
    let after = page.eval("Number(document.querySelector('#general').value)").await;
    assert!(after.as_f64() > before.as_f64(), "{before} {after}");
    page.eval("document.querySelector('.remove').focus()").await;
    page.press("Enter", 13).await;
    page.until("document.querySelectorAll('.card').length === 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_token() {
    let server = Worker::serve(&["--http-token", "open-sesame"], &[]);
    let mut page = Page::open(&server.url("/")).await;
    page.look(1280, 900, "light").await;
    for (token, title) in
        [("wrong", "This server asks for a token"), ("open-sesame", "That token is not the right one")]
    {
        page.until(&format!(
            "document.querySelector('#login').open && document.querySelector('#login-title').textContent === '{title}'"
        ))
        .await;
        page.eval(&format!("document.querySelector('#token').value = '{token}'")).await;
        page.picture("token").await;
        page.eval("document.querySelector('#login button').click()").await;
    }
    page.until("document.querySelectorAll('#model option').length === 1").await;
    add(&mut page, &["orange-sunset.jpg"]).await;
    page.until(ALL_DONE).await;
    assert!(tags(&mut page, 0).await.contains(&"orange".to_owned()));
}
