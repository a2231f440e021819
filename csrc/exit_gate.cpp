#include "exit_gate.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace astfast {
namespace {

std::atomic<bool> shut{false};
std::atomic<int> returning{0};  // threads between the gate and the GIL
thread_local bool may_pass = false;

// A forked child goes on from its own thread, whatever the others of its parent were doing.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    shut = false;
    returning = 0;
});

}  // namespace

void shut_exit_gate() {
    may_pass = true;
    shut = true;
    while (returning != 0) std::this_thread::yield();
}

namespace exit_gate {

void pass() {
    ++returning;
    if (!shut || may_pass) return;
    --returning;
    for (;;) pause();
}

void passed() {
    --returning;
}

}  // namespace exit_gate
}  // namespace astfast
