use super::*;
use crate::Counter;

#[derive(Default)]
struct Disk {
    reads: Counter,
    queue: Queue,
}
#[derive(Default)]
struct Queue {
    kicks: Counter,
}
impl Observe for Queue {
    fn observe(&self, to: &mut Visitor<'_>) {
        to.count("kicks", self.kicks.get());
    }
}
impl Observe for Disk {
    fn observe(&self, to: &mut Visitor<'_>) {
        to.count("reads", self.reads.get());
        to.number("sectors", 8);
        to.flag("read_only", false);
        to.text("state", "running");
        to.part("queue0", &self.queue);
    }
}

#[test]
fn everything_has_a_name_and_a_value() {
    let (registry, disk) = (Registry::new(), Arc::new(Disk::default()));
    registry.add("block.root", disk.clone()).unwrap();
    registry.add("block.root2", Arc::new(Queue::default())).unwrap();
    disk.reads.add(2);
    disk.queue.kicks.increment();
    assert_eq!(
        serde_json::to_string(&registry.snapshot()).unwrap(),
        r#"{"block.root.queue0.kicks":1,"block.root.read_only":false,"block.root.reads":2,"block.root.sectors":8,"block.root.state":"running","block.root2.kicks":0}"#
    );
    assert_eq!(registry.read("block.root.reads"), Some(Value::Count(2)));
    assert_eq!(registry.read("block.root.queue0.kicks"), Some(Value::Count(1)));
    for nothing in ["block.root", "block.root.writes", "block", "", "."] {
        assert_eq!(registry.read(nothing), None, "{nothing}");
    }
    assert!(registry.remove("block.root") && !registry.remove("block.root"));
    assert_eq!(registry.snapshot().0.len(), 1);
}

#[test]
fn names_are_words_and_belong_to_one() {
    let registry = Registry::new();
    let add = |name: &str| registry.add(name, Arc::new(Queue::default()));
    add("a").unwrap();
    assert_eq!(add("a"), Err(NameError::Taken("a".into())));
    for bad in ["", ".", "a.", "a b", "ä", "a..b", "a\n"] {
        assert_eq!(add(bad), Err(NameError::Invalid(bad.into())));
    }
}
