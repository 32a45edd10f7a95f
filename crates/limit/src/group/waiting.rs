use crate::Cost;

/// Requests that wait, in the order in which they are to pass. There is one for each queue of each member at most.
#[derive(Default)]
pub(super) struct Waiting(Vec<Request>);

struct Request {
    due: u128,
    number: u64,
    cost: Cost,
}

/// Where a request stands.
pub(super) struct Place {
    pub due: u128,
    /// What those after it have asked for.
    pub behind: Sum,
}

#[derive(Default)]
pub(super) struct Sum {
    pub bytes: u128,
    pub operations: u128,
}

impl Waiting {
    pub fn add(&mut self, due: u128, number: u64, cost: Cost) {
        let at = self.0.partition_point(|other| (other.due, other.number) < (due, number));
        self.0.insert(at, Request { due, number, cost });
    }

    pub fn remove(&mut self, number: u64) -> Option<Cost> {
        let at = self.0.iter().position(|request| request.number == number)?;
        Some(self.0.remove(at).cost)
    }

    pub fn place(&self, number: u64) -> Option<Place> {
        let mut behind = Sum::default();
        for request in self.0.iter().rev() {
            if request.number == number {
                return Some(Place { due: request.due, behind });
            }
            behind.bytes += u128::from(request.cost.bytes);
            behind.operations += 1;
        }
        None
    }
}
