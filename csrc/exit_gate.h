// The way back from kernels to Python, shut when the interpreter exits.
//
// A daemon thread inside a kernel outlives main. Were it to ask for the GIL once the interpreter is finalised, CPython
// up to 3.13 would unwind its stack, and C++ would end the process: std::terminate, a core dump. So it waits for ever
// instead, holding nothing but the frames of its call.
#pragma once

namespace astfast {

// From now on threads but this one don't get past the gate. Returns when none is between the gate and the GIL; the
// caller must not hold the GIL meanwhile.
void shut_exit_gate();

namespace exit_gate {

// Announces that this thread is coming back, or waits for ever if the gate is shut; and that it has the GIL again.
void pass();
void passed();

}  // namespace exit_gate

// Release (pybind11's gil_scoped_release) for the time of a kernel, and the gate on the way back.
template <class Release>
class BeyondGate {
    struct Passed {
        ~Passed() { exit_gate::passed(); }
    };
    struct Pass {
        ~Pass() { exit_gate::pass(); }
    };
    Passed passed_;  // destroyed last, with the GIL
    Release release_;
    Pass pass_;  // destroyed first, without it
};

}  // namespace astfast
