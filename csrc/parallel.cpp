#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "memory.h"

namespace astfast {
namespace {

constexpr std::size_t kPage = 4096;                         // no two workers write to the same one
constexpr auto kSpinTime = std::chrono::microseconds(200);  // longer than the pause between two ops of a forward pass

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Of all workers in one place: alone, each would leave most of a huge page empty.
struct Scratch {
    Memory memory;
    int workers = 0;
    std::size_t bytes = 0;  // of one worker
};

class Pool;
thread_local Pool* of_this_thread = nullptr;  // that it helps, or has for all of its jobs

class Pool : public std::enable_shared_from_this<Pool> {
  public:
    std::mutex owner;  // held by the thread whose job runs
    Scratch scratch;

    void start(int threads) {
        while (helpers_ < threads - 1) {
            // They end with the process, or with the thread whose own pool this is: the last one destroys it.
            std::thread([this, kept = weak_from_this().lock(), worker = helpers_ + 1] { help(worker); }).detach();
            ++helpers_;
        }
    }

    void run(int threads, void (*body)(void*, int), void* context) {
        start(threads);
        body_ = body;
        context_ = context;
        error_ = nullptr;
        running_.store(threads - 1, std::memory_order_relaxed);
        if (threads > 1) {
            const std::uint64_t generation = (state_.load(std::memory_order_relaxed) >> kThreadBits) + 1;
            state_.store(generation << kThreadBits | static_cast<std::uint64_t>(threads));
            if (sleepers_.load() > 0) {
                const std::lock_guard lock(sleep_);
                wake_.notify_all();
            }
        }
        run_body(0);
        SpinWait wait;
        while (running_.load(std::memory_order_acquire) > 0) wait.pause();
        if (error_) std::rethrow_exception(error_);
    }

    // Lets the helpers end. No job runs, and none will.
    void end() {
        ended_.store(true);
        const std::lock_guard lock(sleep_);
        state_.store(((state_.load() >> kThreadBits) + 1) << kThreadBits);
        wake_.notify_all();
    }

  private:
    static constexpr int kThreadBits = 16;
    static_assert(kMaxThreads < 1 << kThreadBits);

    void run_body(int worker) {
        try {
            body_(context_, worker);
        } catch (...) {
            const std::lock_guard lock(sleep_);
            error_ = std::current_exception();
        }
    }

    // The life of helper `worker`: a job it has no part in may come and go unseen.
    void help(int worker) {
        of_this_thread = this;
        pthread_setname_np(pthread_self(), ("astfast-" + std::to_string(worker)).c_str());
        for (std::uint64_t seen = 0;;) {
            seen = await_job(seen);
            if (ended_.load()) return;
            const int threads = static_cast<int>(seen & ((1u << kThreadBits) - 1));
            if (worker < threads) {
                run_body(worker);
                running_.fetch_sub(1, std::memory_order_release);
            }
        }
    }

    std::uint64_t await_job(std::uint64_t seen) {
        const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
        do {
            for (int i = 0; i < 32; ++i) {
                const std::uint64_t state = state_.load(std::memory_order_acquire);
                if (state != seen) return state;
                relax();
            }
        } while (std::chrono::steady_clock::now() < deadline);
        std::unique_lock lock(sleep_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return state_.load() != seen; });
        sleepers_.fetch_sub(1);
        return state_.load();
    }

    int helpers_ = 0;
    std::atomic<bool> ended_{false};
    void (*body_)(void*, int) = nullptr;
    void* context_ = nullptr;
    std::exception_ptr error_;
    std::atomic<std::uint64_t> state_{0};  // job number << kThreadBits | workers of the job
    std::atomic<int> running_{0};          // helpers that have not ended the job
    std::atomic<int> sleepers_{0};
    std::mutex sleep_;
    std::condition_variable wake_;
};

// Never destroyed: helpers may outlive static destructors.
Pool* pool = new Pool;
// For jobs of one worker, the thread itself: scratch that it shares with none.
thread_local Pool alone;

thread_local Pool* held = nullptr;  // by this thread, for its job
thread_local int locks_held = 0;

Pool& pool_for(int threads) {
    if (of_this_thread != nullptr) return *of_this_thread;
    return threads > 1 ? *pool : alone;
}

// That of the job which this thread runs, or helps with.
Pool& current() {
    return held != nullptr ? *held : *of_this_thread;
}

// The pool that a thread has for itself; its helpers end when the thread does.
class OwnPool {
  public:
    ~OwnPool() {
        if (pool_ != nullptr) pool_->end();
    }

    void make() {
        if (pool_ != nullptr) pool_->end();
        pool_ = std::make_shared<Pool>();
        of_this_thread = pool_.get();
    }

    // In a forked child, where its helpers are not: the pool is left as it is, whatever state its locks are in.
    void leave() {
        if (pool_ != nullptr) new std::shared_ptr<Pool>(std::move(pool_));
        of_this_thread = nullptr;
    }

  private:
    std::shared_ptr<Pool> pool_;
};

thread_local OwnPool own_pool_of_thread;

// A forked child has none of its parent's threads, and the parent's locks in whatever state they were: it starts anew.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    pool = new Pool;
    own_pool_of_thread.leave();
    held = nullptr;
    locks_held = 0;
});

// CPUs in the affinity mask, counting the hardware threads of a core once: they share its vector units.
int cores_in_affinity_mask() {
    std::vector<cpu_set_t> mask(1);
    std::size_t bytes = sizeof(cpu_set_t);
    while (sched_getaffinity(0, bytes, mask.data()) != 0) {
        if (errno != EINVAL || mask.size() > 64) return static_cast<int>(std::thread::hardware_concurrency());
        mask.resize(mask.size() * 2);
        bytes = mask.size() * sizeof(cpu_set_t);
    }
    std::set<std::string> cores;
    for (std::size_t cpu = 0; cpu < bytes * 8; ++cpu) {
        if (!CPU_ISSET_S(cpu, bytes, mask.data())) continue;
        std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
        std::string siblings;
        if (!std::getline(file, siblings)) siblings = std::to_string(cpu);
        cores.insert(siblings);
    }
    return static_cast<int>(cores.size());
}

// CPUs' worth of time that the cgroup (version 2 or 1) and its parents grant, or a large number.
double cgroup_quota() {
    double cpus = 1e9;
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // hierarchy-id:controllers:path
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool v2 = controllers.empty();
        if (!v2 && controllers != "cpu" && controllers != "cpu,cpuacct" && controllers != "cpuacct,cpu") continue;
        const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
            if (path == "/") path.clear();
            double quota = -1, period = 100000;  // microseconds; "max" and -1 mean no limit
            if (v2) {
                std::ifstream(root + path + "/cpu.max") >> quota >> period;
            } else {
                std::ifstream(root + path + "/cpu.cfs_quota_us") >> quota;
                std::ifstream(root + path + "/cpu.cfs_period_us") >> period;
            }
            if (quota > 0 && period > 0) cpus = std::min(cpus, quota / period);
            if (path.empty() || path.rfind('/') == std::string::npos) break;
        }
    }
    return cpus;
}

}  // namespace

int available_threads() {
    const double cpus = std::min<double>(cores_in_affinity_mask(), std::ceil(cgroup_quota()));
    return std::max(1, static_cast<int>(cpus));
}

void SpinWait::pause() {
    if (++spins_ < 2000) {
        relax();
    } else {
        std::this_thread::yield();
    }
}

PoolLock::PoolLock(int threads) {
    if (locks_held == 0) {
        Pool& chosen = pool_for(threads);
        chosen.owner.lock();
        held = &chosen;
    }
    ++locks_held;
}

PoolLock::~PoolLock() {
    if (--locks_held > 0) return;
    held->owner.unlock();
    held = nullptr;
}

void reserve_scratch(int threads, std::size_t bytes) {
    Scratch& all = current().scratch;
    if (all.workers >= threads && all.bytes >= bytes) return;
    const int workers = std::max(all.workers, threads);
    const std::size_t each = std::max(all.bytes, (bytes / kPage + 1) * kPage);
    all = {};
    const std::size_t size = static_cast<std::size_t>(workers) * each;
    all = {allocate((size + kHugePage - 1) / kHugePage * kHugePage), workers, each};
}

std::byte* scratch(int worker) {
    const Scratch& all = current().scratch;
    return all.memory.get() + static_cast<std::size_t>(worker) * all.bytes;
}

void own_pool(const std::vector<int>& cpus) {
    const std::size_t count = static_cast<std::size_t>(*std::max_element(cpus.begin(), cpus.end())) + 1;
    std::vector<cpu_set_t> mask(count / CPU_SETSIZE + 1);
    const std::size_t bytes = mask.size() * sizeof(cpu_set_t);
    for (const int cpu : cpus) CPU_SET_S(static_cast<std::size_t>(cpu), bytes, mask.data());
    sched_setaffinity(0, bytes, mask.data());  // of this thread, and of those that it starts
    own_pool_of_thread.make();
}

void start_threads(int threads) {
    const PoolLock lock(threads);
    try {
        current().start(threads);
    } catch (const std::system_error& error) {
        throw std::runtime_error("the system starts no " + std::to_string(threads) + " threads: " + error.what());
    }
}

void run_workers(int threads, void (*body)(void* context, int worker), void* context) {
    const PoolLock lock(threads);
    current().run(threads, body, context);
}

}  // namespace astfast
