//! What can be seen of running predictions in this process before the store knows it: previews, pictures that are
//! already stored, and the news that a row has changed.
//!
//! The worker shows, the API looks; neither knows the other. Only the latest is kept, in memory: whoever looks too slowly
//! misses some, and what is lost with the process is lost. The truth is in the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use tokio::sync::watch;

/// All predictions that are shown or looked at. Clones share them.
#[derive(Clone, Default)]
pub struct Live {
    scenes: Arc<Mutex<HashMap<String, Weak<Scene>>>>,
}

/// What is known of one prediction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The latest preview as JSON.
    pub preview: Option<Bytes>,
    /// How many previews there were.
    pub previews: u64,
    /// Blob paths of the pictures that are stored, by index.
    pictures: Vec<Option<String>>,
    /// How often its row was changed.
    pub row: u64,
}

struct Scene {
    view: watch::Sender<View>,
    /// Who wants previews.
    watchers: AtomicUsize,
}

/// The hold of a shower or looker on its scene, which goes when the last one lets go.
struct Hold {
    live: Live,
    id: String,
    scene: Option<Arc<Scene>>,
}

/// The worker's side of one prediction: what it draws is shown here.
pub struct Show(Arc<Hold>);

/// The API's side: sees what is shown, from the latest on.
pub struct Look {
    hold: Hold,
    view: watch::Receiver<View>,
    wants_previews: bool,
}

impl Live {
    /// Begins to show a prediction, with nothing to be seen yet.
    pub fn show(&self, id: &str) -> Show {
        let hold = self.hold(id);
        hold.update(|view| *view = View { row: view.row + 1, previews: view.previews, ..View::default() });
        Show(Arc::new(hold))
    }

    /// Looks at a prediction, which may not be shown yet. Previews are made only for those who want them.
    pub fn look(&self, id: &str, wants_previews: bool) -> Look {
        let hold = self.hold(id);
        if wants_previews {
            hold.watchers(|count| count.fetch_add(1, Ordering::Relaxed));
        }
        let view = match &hold.scene {
            Some(scene) => scene.view.subscribe(),
            None => watch::channel(View::default()).1,
        };
        Look { hold, view, wants_previews }
    }

    fn hold(&self, id: &str) -> Hold {
        let mut scenes = self.lock();
        let known = scenes.get(id).and_then(Weak::upgrade);
        let scene = known.unwrap_or_else(|| {
            let scene = Arc::new(Scene { view: watch::Sender::new(View::default()), watchers: AtomicUsize::new(0) });
            scenes.insert(id.to_string(), Arc::downgrade(&scene));
            scene
        });
        Hold { live: self.clone(), id: id.to_string(), scene: Some(scene) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Scene>>> {
        self.scenes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Hold {
    fn update(&self, change: impl FnOnce(&mut View)) {
        if let Some(scene) = &self.scene {
            scene.view.send_modify(change);
        }
    }

    fn watchers<T>(&self, act: impl FnOnce(&AtomicUsize) -> T) -> Option<T> {
        self.scene.as_ref().map(|scene| act(&scene.watchers))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.scene = None;
        let mut scenes = self.live.lock();
        // Somebody may have come anew in between.
        if scenes.get(&self.id).is_some_and(|scene| scene.strong_count() == 0) {
            scenes.remove(&self.id);
        }
    }
}

impl Show {
    /// Whether somebody wants previews: cheap enough to be asked at every step.
    pub fn is_watched(&self) -> bool {
        self.0.watchers(|count| count.load(Ordering::Relaxed)).is_some_and(|count| count > 0)
    }

    /// Shows a preview, in place of the last one.
    pub fn preview(&self, json: Bytes) {
        self.0.update(|view| {
            view.preview = Some(json);
            view.previews += 1;
        });
    }

    /// Shows that a picture is stored.
    pub fn stored(&self, index: usize, path: String) {
        self.0.update(|view| {
            if view.pictures.len() <= index {
                view.pictures.resize(index + 1, None);
            }
            view.pictures[index] = Some(path);
        });
    }

    /// Says that the row has changed.
    pub fn row_changed(&self) {
        self.0.update(|view| view.row += 1);
    }
}

impl Clone for Show {
    fn clone(&self) -> Show {
        Show(Arc::clone(&self.0))
    }
}

impl std::fmt::Debug for Show {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Show({})", self.0.id)
    }
}

impl Look {
    /// What is shown now.
    pub fn view(&mut self) -> View {
        self.view.borrow_and_update().clone()
    }

    /// Returns when something new is shown.
    pub async fn changed(&mut self) {
        if self.view.changed().await.is_err() {
            // We hold the sender, so this does not happen.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if self.wants_previews {
            self.hold.watchers(|count| count.fetch_sub(1, Ordering::Relaxed));
        }
    }
}

impl View {
    /// The pictures that are stored, as far as none before them is missing.
    pub fn pictures(&self) -> Vec<String> {
        self.pictures.iter().map_while(Clone::clone).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn who_looks_sees_the_latest_and_nothing_stays_behind() {
        let live = Live::default();
        let mut early = live.look("a", false);
        let show = live.show("a");
        assert!(!show.is_watched(), "it does not want previews");
        let mut look = live.look("a", true);
        assert!(show.is_watched());
        early.changed().await;
        show.preview(Bytes::from_static(b"1"));
        show.preview(Bytes::from_static(b"2"));
        assert_eq!((look.view().preview, look.view().previews), (Some(Bytes::from_static(b"2")), 2));
        show.stored(1, "x/1".into());
        look.changed().await;
        assert_eq!(look.view().pictures(), Vec::<String>::new());
        show.stored(0, "x/0".into());
        assert_eq!(look.view().pictures(), ["x/0", "x/1"]);

        let again = live.show("a");
        assert_eq!(look.view().pictures(), Vec::<String>::new(), "a new attempt begins with nothing");
        drop(look);
        assert!(!again.is_watched());
        assert_eq!(live.look("b", true).view(), View::default());
        drop((early, show, again));
        assert!(live.lock().is_empty());
    }
}
