"""Three laws by which transfers share links. They differ in what is known when a transfer begins, and so in what it is told.

    law      module    a transfer gets                      its end is known         who uses it
    fair     fair,     1/n of each link beside n - 1        when the last of those   emulation.latency: fetch times on a
             fabric    others (processor sharing)           beside it has begun      virtual clock, prefixes, replays
    booked   booked    the link's next free time, whole:    when it begins           emulation.stores.timed: stores that
                       first come, first served                                      stall on a wall clock, also those of
                                                                                     other processes and beds
    flows    flows     what other flows leave of the link:  as long as no rate       emulation.serving: engines in steady
                       bytes / (bandwidth x (1 - load))     changes                  state between two changes of a batch

Fair is the law of packets that take turns, and the reference; it must be free to move an end that it has announced. A store on
a wall clock cannot take an answer back, so its links are booked, by parts of 256 KiB, which take turns as packets would. A
serving run has one fetch per layer, step and GPU and asks for none of them singly: its flows cost per change of rates, not
per fetch. For one reader alone all three give the closed form of `emulation.timing.path`, which the tests hold them to; n
equal readers that begin at once all end after n times the link's work under `fair`, the last of them does under `booked`, and
n equal flows settle at bandwidth / n under `flows`."""
