// One persistent pool of threads for the whole process, but for threads that have one of their own: no OpenMP, which
// would clash with torch's.
//
// Work is handed out in small pieces that the caller and its helpers take in turn, so that a core that is slow, or busy
// with something else, simply takes fewer of them. One job of several threads runs at a time: a second caller waits for
// the first. A job of one thread is its caller's own, and runs beside all others.
// A job must not start another one. The pool survives fork: the child starts threads of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace astfast {

// Physical cores that this process may keep busy: those in its affinity mask, at most its cgroup's CPU quota.
int available_threads();

// Holds the pool of a job of at most `threads`, from reserve_scratch to the end of the job that uses the scratch.
class PoolLock {
  public:
    explicit PoolLock(int threads);
    ~PoolLock();
    PoolLock(const PoolLock&) = delete;
    PoolLock& operator=(const PoolLock&) = delete;
};

// Makes scratch(0) to scratch(threads - 1) at least `bytes` long each: 64-byte aligned, contents undefined, kept from
// job to job. Worker w of a job owns scratch(w); others may read it. The caller holds a PoolLock.
void reserve_scratch(int threads, std::size_t bytes);
std::byte* scratch(int worker);

// Gives the calling thread a pool of its own, whose threads run on these CPUs as it does from now on, and end with it;
// where the system has them elsewhere (the CPUs are no longer the process's), they stay there. At least one CPU, from
// 0.
void own_pool(const std::vector<int>& cpus);

// The most workers of a job.
constexpr int kMaxThreads = 65535;

// Starts the threads that a job of so many workers needs. std::runtime_error where the system has no more of them.
void start_threads(int threads);

// Runs body(context, worker) once on each of `threads` workers, 0 (the caller) to threads - 1, and returns when all
// have ended. An exception that leaves body is thrown again here.
void run_workers(int threads, void (*body)(void* context, int worker), void* context);

// Workers of a job: no more than it has tasks.
inline int workers_of(int threads, std::int64_t tasks) {
    return static_cast<int>(std::clamp<std::int64_t>(tasks, 1, std::max(threads, 1)));
}

// fn(task, worker) for every task in [0, tasks), each once, on at most `threads` workers, in no particular order.
template <class Fn>
void parallel_for(int threads, std::int64_t tasks, const Fn& fn) {
    struct Job {
        const Fn& fn;
        std::int64_t tasks;
        std::atomic<std::int64_t> next{0};
    } job{fn, tasks};
    const auto body = [](void* context, int worker) {
        Job& j = *static_cast<Job*>(context);
        for (std::int64_t task; (task = j.next.fetch_add(1, std::memory_order_relaxed)) < j.tasks;) j.fn(task, worker);
    };
    run_workers(workers_of(threads, tasks), body, &job);
}

// Waits for another thread: first without giving up the core, then giving way to whatever else wants it.
class SpinWait {
  public:
    void pause();

  private:
    int spins_ = 0;
};

// For tasks of which all need all of a preparation, and neighbours share something too.
//
// prepare(part) for each part in [0, parts); when all are prepared, run(first, end) for ranges that together are [0,
// tasks). A worker runs its own share in ranges of half of what is left of it, of eight tasks at most, and then takes
// as much from the ends of others' shares. Neither may throw.
template <class Prepare, class Run>
void parallel_shares(int threads, std::int64_t parts, std::int64_t tasks, const Prepare& prepare, const Run& run) {
    struct Range {
        std::int32_t first, end;
    };
    struct alignas(64) Share {
        std::atomic<Range> left;
    };
    struct Job {
        const Prepare& prepare;
        const Run& run;
        std::int64_t parts;
        int workers;
        std::unique_ptr<Share[]> shares;
        std::atomic<std::int64_t> next{0}, prepared{0};  // parts

        // The next range of a share: its end, but for the worker whose it is.
        Range take(int owner, bool own) {
            std::atomic<Range>& left = shares[static_cast<std::size_t>(owner)].left;
            for (Range all = left.load();;) {
                const std::int32_t count = std::min((all.end - all.first + 1) / 2, 8);
                const Range head{all.first, all.first + count}, tail{all.end - count, all.end};
                if (left.compare_exchange_weak(all, own ? Range{head.end, all.end} : Range{all.first, tail.first})) {
                    return own ? head : tail;
                }
            }
        }
    };
    const int workers = workers_of(threads, std::max(parts, tasks));
    Job job{prepare, run, parts, workers, std::make_unique<Share[]>(static_cast<std::size_t>(workers))};
    for (int worker = 0; worker < workers; ++worker) {
        job.shares[static_cast<std::size_t>(worker)].left = {static_cast<std::int32_t>(tasks * worker / workers),
                                                             static_cast<std::int32_t>(tasks * (worker + 1) / workers)};
    }
    const auto body = [](void* context, int worker) {
        Job& j = *static_cast<Job*>(context);
        for (std::int64_t part; (part = j.next.fetch_add(1, std::memory_order_relaxed)) < j.parts;) {
            j.prepare(part);
            j.prepared.fetch_add(1, std::memory_order_release);
        }
        for (SpinWait wait; j.prepared.load(std::memory_order_acquire) < j.parts;) wait.pause();
        for (int i = 0; i < j.workers; ++i) {
            for (Range range; (range = j.take((worker + i) % j.workers, i == 0)).first < range.end;) {
                j.run(range.first, range.end);
            }
        }
    };
    run_workers(workers, body, &job);
}

// For blocks of work that share a costly preparation (a packed row block, a head's packed keys and values).
//
// prepare(block, worker) fills scratch(worker), of scratch_bytes; then run(block, owner, first, end, worker) is called
// for ranges of tiles that together are [0, tiles), reading scratch(owner). A worker prepares and runs blocks of its
// own for as long as there are any and then helps the others to finish theirs. A range is a fair share of half of what
// is left for all (guided self-scheduling, https://doi.org/10.1109/TC.1987.5009495): long ones while there is much,
// then shorter and shorter ones, so that cores as fast as each other end within one tile. Neither may throw.
template <class Prepare, class Run>
void parallel_blocks(int threads, std::int64_t blocks, std::int64_t tiles, std::size_t scratch_bytes,
                     const Prepare& prepare, const Run& run) {
    struct alignas(64) Slot {                   // the block of one worker
        std::atomic<std::int64_t> next{0};      // first tile not yet taken; `tiles` or more: none
        std::atomic<std::int64_t> finished{0};  // tiles
        std::int64_t block = 0;                 // fixed while a tile is taken and not finished
    };
    struct Job {
        const Prepare& prepare;
        const Run& run;
        std::int64_t blocks, tiles;
        int threads;
        std::unique_ptr<Slot[]> slots;
        std::atomic<std::int64_t> next{0};  // first block not yet taken
        std::atomic<std::int64_t> finished{0};

        // How many of `left` tiles of a block make a range.
        std::int64_t range(std::int64_t left) const {
            const std::int64_t untaken = std::max<std::int64_t>(blocks - next.load(std::memory_order_relaxed), 0);
            return std::clamp<std::int64_t>((left + untaken * tiles) / (2 * threads), 1, left);
        }

        void take_tiles(int owner, int worker) {
            Slot& slot = slots[static_cast<std::size_t>(owner)];
            std::int64_t first = slot.next.load(std::memory_order_relaxed);
            while (first < tiles) {
                const std::int64_t count = range(tiles - first);
                if (!slot.next.compare_exchange_weak(first, first + count, std::memory_order_acquire)) continue;
                run(slot.block, owner, first, first + count, worker);
                slot.finished.fetch_add(count, std::memory_order_release);
                first = slot.next.load(std::memory_order_relaxed);
            }
        }
    };
    const PoolLock lock(threads);
    threads = workers_of(threads, blocks * tiles);
    reserve_scratch(threads, scratch_bytes);
    Job job{prepare, run, blocks, tiles, threads, std::make_unique<Slot[]>(static_cast<std::size_t>(threads))};
    for (int worker = 0; worker < threads; ++worker) job.slots[static_cast<std::size_t>(worker)].next.store(tiles);
    const auto body = [](void* context, int worker) {
        Job& j = *static_cast<Job*>(context);
        Slot& own = j.slots[static_cast<std::size_t>(worker)];
        for (std::int64_t block; (block = j.next.fetch_add(1, std::memory_order_relaxed)) < j.blocks;) {
            j.prepare(block, worker);
            own.block = block;
            own.finished.store(0, std::memory_order_relaxed);
            own.next.store(0, std::memory_order_release);  // opens the block to all
            j.take_tiles(worker, worker);
            for (SpinWait wait; own.finished.load(std::memory_order_acquire) < j.tiles;) wait.pause();
            j.finished.fetch_add(1, std::memory_order_release);
        }
        for (SpinWait wait; j.finished.load(std::memory_order_acquire) < j.blocks; wait.pause()) {
            for (int owner = 0; owner < j.threads; ++owner) j.take_tiles(owner, worker);
        }
    };
    run_workers(threads, body, &job);
}

}  // namespace astfast
